"""Arguments that several commands take."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError

from ..contract.device import card_number

SNAPSHOT_SECONDS = 30.0
"""Seconds between snapshots without `--snapshot-every`."""


def library_files(to: ArgumentParser) -> None:
    """`--library`: Python files with node types."""
    to.add_argument(
        "--library",
        action="append",
        default=[],
        metavar="FILE",
        help="a Python file with node types; sgd runs the file",
    )


def workflow(to: ArgumentParser) -> None:
    """The workflow file, values of its inputs, `--set` and `--library`."""
    to.add_argument(
        "file",
        metavar="FILE",
        help="a workflow file, the name of a bundled workflow, or a run: its folder, run.json, a picture or a clip",
    )
    to.add_argument("values", nargs="*", default=[], metavar="name=value", help="values of the workflow's inputs")
    to.add_argument(
        "--set", action="append", default=[], metavar="PATH=VALUE", help="set a parameter, such as node.parameter=3"
    )
    library_files(to)


def output_folder(to: ArgumentParser) -> None:
    """`--out` and `--overwrite` of commands that run a workflow."""
    to.add_argument("--out", metavar="DIR", help="the output folder (default: outputs/<name>-<date>-<time>)")
    to.add_argument("--overwrite", action="store_true", help="replace files that exist")


def device(to: ArgumentParser) -> None:
    """`--device` and `--traceback`."""
    to.add_argument(
        "--device",
        type=_device,
        metavar="auto|cpu|cuda|cuda:N",
        default="auto",
        help="the device that runs the nodes (default: auto, a GPU if there is one); cuda:1 is one of several GPUs",
    )
    to.add_argument(
        "--traceback", action="store_true", help="if a node fails, print its calls, those of its author first"
    )


def overlap_options(to: ArgumentParser) -> None:
    """`--overlap` and `--overlap-device`."""
    to.add_argument(
        "--overlap",
        action="store_true",
        help="run the end of a turn of a loop, such as decoding and writing a clip, beside the next turn",
    )
    to.add_argument(
        "--overlap-device",
        type=_card,
        metavar="cuda:N",
        help="do that on another GPU, such as cuda:1, which holds the components for it",
    )


DEVICES = ("auto", "cpu", "cuda")


def _device(text: str) -> str:
    if text not in DEVICES and card_number(text) is None:
        raise ArgumentTypeError(f"{text!r} is no device; give {', '.join(DEVICES)}, or cuda:1 for one of several GPUs")
    return text


def _card(text: str) -> str:
    if card_number(text) is None:
        raise ArgumentTypeError(f"{text!r} is no GPU with a number; give cuda:1 for the second one")
    return text


def result_as_json(to: ArgumentParser) -> None:
    """`--json` of a command that runs nodes."""
    to.add_argument("--json", action="store_true", help="print the result as JSON on stdout")


def snapshot_option(to: ArgumentParser) -> None:
    """`--snapshot-every`."""
    to.add_argument(
        "--snapshot-every",
        metavar="SECONDS",
        type=_seconds,
        default=SNAPSHOT_SECONDS,
        help="seconds between snapshots, from which `sgd resume` goes on (default: 30; more where they take over 1 %% "
        "of the time)",
    )


def _seconds(text: str) -> float:
    try:
        value = float(text.strip())
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ArgumentTypeError(f"{text!r} is no number of seconds; give 0 or more")
    return value
