"""Find the weight files of a component, and check that they are complete before they are read. Torch-free."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ....graph.contract.errors import NodeError
from ...support.tensor_header import AGAIN, read_header
from .hub import STEMS
from .repository import read_json

PICKLED = (".bin", ".pt", ".pth", ".ckpt")


def weight_files(folder: Path, variant: str | None) -> list[Path]:
    """Find the safetensors files of one variant of a component; empty if this variant has no files.

    The header of each file is checked against the file's size, so that an incomplete download is found here.

    Raises:
        NodeError: If a shard is missing, or a file is truncated or is not a safetensors file.
    """
    for stem in STEMS:
        index = folder / (f"{stem}.safetensors.index" + (f".{variant}" if variant else "") + ".json")
        single = folder / (stem + (f".{variant}" if variant else "") + ".safetensors")
        if exists(index):
            weight_map = _weight_map(index)
            files = _shards(index, weight_map)
        elif exists(single):
            weight_map, files = {}, [single]
        else:
            continue
        _check_index(index, weight_map, {file.name: header(file) for file in files})
        return files
    return []


def exists(file: Path) -> bool:
    """Whether there is anything with this name; what is no file is an error when it is read."""
    return os.path.lexists(file)


def _check_index(index: Path, weight_map: Mapping[str, str], headers: Mapping[str, Mapping[str, Any]]) -> None:
    """Compare an index with the headers of its shards.

    Raises:
        NodeError: If a shard lacks a tensor that the index names, or a tensor stands in two shards.
    """
    absent = [name for name, shard in weight_map.items() if name not in headers[shard]]
    if absent:
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        shard = weight_map[absent[0]]
        raise NodeError(f"{index} names tensor {absent[0][:80]}{more}, which {shard} does not hold", help=AGAIN)
    home: dict[str, str] = {}
    for shard, content in headers.items():
        for name in content:
            first = home.setdefault(name, shard)
            if first != shard and name != "__metadata__":
                raise NodeError(f"{index.parent}: tensor {name[:80]} is in both {first} and {shard}", help=AGAIN)


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
    return read_header(file)


def no_weights(source: str, part: str, names: list[str], variant: str | None, others: list[str]) -> NodeError:
    """Make the error for a component without usable weight files. `names` are the names of the files in its folder."""
    pickled = sorted(n for n in names if n.endswith(PICKLED))
    if pickled:
        return NodeError(
            f"{source}: {part} has its weights only as pickled files ({', '.join(pickled[:3])}), which can run "
            "code when they are read",
            help="use a repository or revision with safetensors, or convert it once with diffusers' "
            "save_pretrained(..., safe_serialization=True) on a machine you can lose",
        )
    if others:
        kind = f"no {variant} weights" if variant else "no weights without a variant"
        return NodeError(f"{source}: {part} has {kind}", help=f"set variant: {' or '.join(others)}")
    return NodeError(
        f"{source}/{part} has no weight files (safetensors)", help="the copy is incomplete: download the model again"
    )


def _weight_map(index: Path) -> dict[str, str]:
    """The shard of each tensor, from an index."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(n, str) for n in weight_map.values()):
        raise NodeError(f"{index} does not list its shards (`weight_map`)", help=AGAIN)
    return weight_map


def _shards(index: Path, weight_map: Mapping[str, str]) -> list[Path]:
    names = sorted(set(weight_map.values()))
    if any(Path(name).name != name or not name.endswith(".safetensors") for name in names):
        raise NodeError(
            f"{index} names shards that are no safetensors files of its folder", help="do not use this model"
        )
    files = [index.parent / name for name in names]
    missing = [file.name for file in files if not exists(file)]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise NodeError(
            f"{index.parent} lacks {len(missing)} of {len(files)} shards: {', '.join(missing[:3])}{more}",
            help="the copy is incomplete: download the model again",
        )
    return files
