"""The gallery: a page with the pictures and clips of runs, which stay where they are."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ...contract.errors import NodeError
from ...contract.output_files import replace_text, unwritable
from ...contract.terminal_text import printable
from ...contract.text_tables import seconds
from .run_list import RunEntry

TEMPLATES = Path(__file__).parent / "templates"
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".avif")
CLIPS = (".mp4", ".m4v", ".webm", ".mov")
MARK = '<meta name="generator" content="sgd runs">'
MOST_FILES = 8
"""Files of one run that are shown; the others are counted."""


@dataclass(frozen=True)
class Shown:
    """A file: its address relative to the page, its name, and whether it is a `picture`, a `clip` or neither."""

    address: str
    name: str
    kind: str


@dataclass(frozen=True)
class Card:
    """A run as the template shows it. All texts are escaped there."""

    title: str
    state: str
    folder: str
    record: str
    report: str
    when: str
    moment: str
    facts: Sequence[str]
    inputs: Sequence[tuple[str, str]]
    files: Sequence[Shown]
    more: int
    error: str
    again: str


def write_gallery(runs: Sequence[RunEntry], folder: Path, target: Path, overwrite: bool) -> None:
    """Write the page.

    Args:
        runs: The runs, in order.
        folder: The folder that they were found in, for the title.
        target: The file of the page. An older gallery is replaced.
        overwrite: Replace any other file.

    Raises:
        NodeError: If the file cannot be written, or is there and is no gallery.
    """
    if target.is_dir():
        raise NodeError(f"{target} is a folder", help="name a file with --out")
    if not overwrite and target.exists() and not _is_gallery(target):
        raise NodeError(f"{target} exists, and is no gallery of sgd", help="pass --overwrite, or another --out")
    beside = Path(os.path.abspath(target)).parent
    text = gallery([_card(run, folder, beside) for run in runs], str(folder))
    try:
        replace_text(target, text)
    except OSError as error:
        raise unwritable(target, error, "choose another --out") from None


def gallery(cards: Sequence[Card], folder: str) -> str:
    """The HTML of the page."""
    style, script = (Markup((TEMPLATES / f"gallery.{kind}").read_text(encoding="ascii")) for kind in ("css", "js"))
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; img-src 'self' file: data:; media-src 'self' file:; "
        f"style-src '{_hash(style)}'; script-src '{_hash(script)}'"
    )
    made = Environment(
        loader=FileSystemLoader(TEMPLATES, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    template = made.get_template("gallery.html.jinja")
    text = template.render(cards=cards, folder=folder, style=style, script=script, policy=Markup(policy))
    return text.encode("ascii", "xmlcharrefreplace").decode("ascii")


def _hash(text: str) -> str:
    """The hash of an element's text, as a content security policy names it (CSP level 3, section 8.3)."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("ascii")).digest()).decode("ascii")


def _is_gallery(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return MARK.encode() in file.read(2000)
    except OSError:
        return False


def _card(run: RunEntry, base: Path, beside: Path) -> Card:
    shown = [file for name in run.outputs if (file := _file(run.folder, name, beside)) is not None]
    facts = [text for text in (f"{seconds(run.seconds)} s" if run.seconds is not None else "", run.device) if text]
    report = run.folder / "report.html"
    record = run.folder / "run.json"
    return Card(
        run.workflow or os.path.relpath(run.folder, base),
        run.state,
        os.path.relpath(run.folder, base),
        _address(record, beside) if record.is_file() else "",
        _address(report, beside) if report.is_file() else "",
        f"{run.started:%Y-%m-%d %H:%M}" if run.started else "",
        run.started.isoformat(timespec="seconds") if run.started else "",
        facts,
        [(name, _text(value)) for name, value in (run.differing or {**run.inputs, **run.settings}).items()],
        shown[:MOST_FILES],
        max(0, len(shown) - MOST_FILES),
        run.error,
        f"sgd exec {shlex.quote(str(run.folder))}" if record.is_file() else "",
    )


def _file(folder: Path, name: str, beside: Path) -> Shown | None:
    """A file of a run; None if it is not there or lies outside of the run's folder."""
    try:
        root = folder.resolve()
        path = (root / name).resolve()
        if not path.is_relative_to(root) or not path.is_file():
            return None
    except (OSError, ValueError):
        return None
    suffix = path.suffix.lower()
    kind = "picture" if suffix in PICTURES else "clip" if suffix in CLIPS else ""
    return Shown(_address(path, beside), name, kind)


def _address(path: Path, beside: Path) -> str:
    """The address relative to the page. It begins with a dot, so that it is never an address elsewhere."""
    text = Path(os.path.relpath(path.resolve(), beside.resolve())).as_posix()
    return quote(text if text.startswith("../") else f"./{text}")


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 300 else f"{text[:299]}…"
