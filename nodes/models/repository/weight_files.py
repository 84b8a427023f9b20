"""Weight files of one component: which they are, and whether they are whole, before anything reads them. Torch-free."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ....graph.contract.errors import NodeError
from . import safetensors_header
from .hub import STEMS
from .repository import read_json

PICKLED = (".bin", ".pt", ".pth", ".ckpt")
OTHER = "give the safetensors file itself"
AGAIN = "the copy is damaged or incomplete: delete the file and download the model again"


def weight_files(folder: Path, variant: str | None) -> list[Path]:
    """The safetensors files of a component, in one variant; empty if there are none of that variant.

    Every file's header is checked against the file's size, so that a download that broke off is found here.

    Raises:
        NodeError: If a shard is missing, or a file is truncated or is not a safetensors file.
    """
    for stem in STEMS:
        index = folder / (f"{stem}.safetensors.index" + (f".{variant}" if variant else "") + ".json")
        single = folder / (stem + (f".{variant}" if variant else "") + ".safetensors")
        if index.is_file():
            files = _shards(index)
        elif single.is_file():
            files = [single]
        else:
            continue
        for file in files:
            check(file)
        return files
    return []


def variants(folder: Path) -> list[str]:
    """Variants of the weights a folder holds, such as `fp16`."""
    found = set()
    for stem in STEMS:
        for file in folder.glob(f"{stem}.*.safetensors"):
            found.add(file.name.removeprefix(f"{stem}.").removesuffix(".safetensors").split("-")[0])
    return sorted(found)


def check(file: Path) -> None:
    """Check a safetensors file's header and size; reads the header only.

    Raises:
        NodeError: If the file is truncated, or no safetensors file.
    """
    header(file)


def header(file: Path) -> dict[str, Any]:
    """The header of a safetensors file, its size checked: dtype, shape and place of each tensor by name.

    Raises:
        NodeError: If the file is truncated, or no safetensors file.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            start = stream.read(8)
            length = int.from_bytes(start, "little")
            if size < 8 or length > min(size - 8, safetensors_header.MOST_BYTES):
                kind = safetensors_header.other_file(start + stream.read(24))
                if kind is not None:
                    raise NodeError(f"{file} is not a safetensors file: it is {kind}", help=OTHER)
                raise NodeError(f"{file} is truncated: {size} bytes, its header is not whole", help=AGAIN)
            content = safetensors_header.parse(stream.read(length))
        ends = [entry["data_offsets"][1] for name, entry in content.items() if name != "__metadata__"]
        expected = 8 + length + max(ends, default=0)
        if size < expected:
            raise NodeError(f"{file} is truncated: {size} bytes of {expected}", help=AGAIN)
        safetensors_header.check_places(content)
    except OSError as error:
        raise NodeError(f"cannot read {file}: {error.strerror or error}", help=AGAIN) from error
    except safetensors_header.BadHeader as error:
        raise NodeError(f"{file} is not a safetensors file: {error}", help=AGAIN) from error
    if size > expected:
        raise NodeError(f"{file} is damaged: {size} bytes, and its header tells of {expected}", help=AGAIN)
    return content


def no_weights(source: str, part: str, names: list[str], variant: str | None, others: list[str]) -> NodeError:
    """The error for a component without usable weight files; `names` are the files it has."""
    pickled = sorted(n for n in names if n.endswith(PICKLED))
    if pickled:
        return NodeError(
            f"{source}: {part} has its weights only as pickled files ({', '.join(pickled[:3])}), which can run code "
            "when they are read",
            help="use a repository or revision with safetensors, or convert it once with diffusers' "
            "save_pretrained(..., safe_serialization=True) on a machine you can lose",
        )
    if others:
        kind = f"no {variant} weights" if variant else "no weights without a variant"
        return NodeError(f"{source}: {part} has {kind}", help=f"set variant: {' or '.join(others)}")
    return NodeError(
        f"{source}: {part} has no weight files (safetensors)", help="the copy is incomplete: download the model again"
    )


def _shards(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(n, str) for n in weight_map.values()):
        raise NodeError(f"{index} does not list its shards (`weight_map`)", help=AGAIN)
    names = sorted(set(weight_map.values()))
    if any(Path(name).name != name for name in names):
        raise NodeError(f"{index} names shards outside its folder", help="do not use this model")
    files = [index.parent / name for name in names]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise NodeError(
            f"{index.parent} lacks {len(missing)} of {len(files)} shards: {', '.join(missing[:3])}{more}",
            help="the copy is incomplete: download the model again",
        )
    return files
