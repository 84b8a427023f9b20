"""Find the weight files of a component, and check that they are complete before they are read. Torch-free."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ....graph.contract.errors import NodeError
from .hub import STEMS
from .repository import read_json

PICKLED = (".bin", ".pt", ".pth", ".ckpt")
AGAIN = "the copy is damaged or incomplete: delete the file and download the model again"


def weight_files(folder: Path, variant: str | None) -> list[Path]:
    """Find the safetensors files of one variant of a component; empty if this variant has no files.

    The header of each file is checked against the file's size, so that an incomplete download is found here.

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
    """Variants of the weights in a folder, such as `fp16`."""
    found = set()
    for stem in STEMS:
        for file in folder.glob(f"{stem}.*.safetensors"):
            found.add(file.name.removeprefix(f"{stem}.").removesuffix(".safetensors").split("-")[0])
    return sorted(found)


def check(file: Path) -> None:
    """Check a safetensors file's header and size; reads the header only.

    Raises:
        NodeError: If the file is truncated, or is not a safetensors file.
    """
    header(file)


def header(file: Path) -> dict[str, Any]:
    """Read the header of a safetensors file: dtype, shape and place of each tensor. The file's size is checked.

    Raises:
        NodeError: If the file is truncated, or is not a safetensors file.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or 8 + length > size:
                raise NodeError(f"{file} is truncated: it has {size} bytes, and the header is longer", help=AGAIN)
            content: dict[str, Any] = json.loads(stream.read(length))
        tensors = [entry for name, entry in content.items() if name != "__metadata__"]
        ends = [entry["data_offsets"][1] for entry in tensors]
        if not all(isinstance(entry["dtype"], str) and _is_shape(entry["shape"]) for entry in tensors):
            raise ValueError("a tensor without dtype or shape")
    except OSError as error:
        raise NodeError(f"cannot read {file}: {error.strerror or error}", help=AGAIN) from error
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
        raise NodeError(f"{file} is not a safetensors file: its header cannot be read", help=AGAIN) from error
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise NodeError(f"{file} is truncated: {size} bytes of {expected}", help=AGAIN)
    return content


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, list) and all(isinstance(size, int) and size >= 0 for size in shape)


def no_weights(source: str, part: str, names: list[str], variant: str | None, others: list[str]) -> NodeError:
    """Make the error for a component without usable weight files. `names` are the names of the files in its folder."""
    pickled = sorted(n for n in names if n.endswith(PICKLED))
    if pickled:
        return NodeError(
            f"{source}: {part} has its weights only as pickled files ({', '.join(pickled[:3])}), which can run code "
            "when they are read",
            help="use a repository or revision with safetensors, or convert the weights once with diffusers' "
            "save_pretrained(..., safe_serialization=True) on a machine without important data",
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
