"""Finds the file of a one-file checkpoint, on this disk or on the hub. Torch-free.

A file on the hub is named with its repository: `owner/name/file.safetensors`, `owner/name/folder/file.gguf`.
"""

from __future__ import annotations

import glob
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from ....graph.contract.errors import NodeError
from ....graph.contract.node import Run
from ..repository import hub

SUFFIXES = (".safetensors", ".gguf")
PICKLED = (".ckpt", ".pt", ".pth", ".bin")
SAFER = "get the checkpoint as safetensors or GGUF, or convert it on a machine without important data"


@dataclass(frozen=True)
class Checkpoint:
    """A one-file checkpoint of one component.

    Attributes:
        source: The file as the workflow names it.
        file: The file on this disk; None for a file on the hub that is not in the cache.
        commit: The commit of a file on the hub; None for others.
    """

    source: str
    file: Path | None
    commit: str | None = None


def find(source: str) -> Checkpoint:
    """The checkpoint of this name, without network.

    Raises:
        NodeError: If there is no such file, and the name is not one of a file on the hub.
    """
    try:
        path = Path(source).expanduser()
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, ValueError, RuntimeError) as error:
        raise NodeError(f"{source[:60]}… is not a path", help="give a safetensors or GGUF file") from error
    if is_file and path.is_absolute():  # the compiler makes paths absolute; what is not is a name
        return Checkpoint(source, path)
    if is_folder and path.is_absolute():
        raise NodeError(
            f"{source} is a folder; a checkpoint is one file",
            help="give a safetensors or GGUF file; a folder in diffusers' layout is a `source` of model.load",
        )
    named = _hub_file(source)
    if named is None:
        if path.suffix in PICKLED and not path.is_absolute() and len(path.parts) > 2:
            raise NodeError(f"{source} is a pickled file, which can run code when it is read", help=SAFER)
        help = (
            "give a safetensors or GGUF file, by a path relative to the workflow file, or `owner/name/file` on the hub"
        )
        raise NodeError(f"there is no file {source}", help=help)
    snapshot = hub.cached(named.repository, None, named.name)
    return Checkpoint(source, None) if snapshot is None else Checkpoint(source, snapshot / named.name, snapshot.name)


def bring(checkpoint: Checkpoint, run: Run) -> Checkpoint:
    """The checkpoint with its file, which is downloaded if it is not on this disk.

    Raises:
        NodeError: If it cannot be downloaded.
    """
    named = _hub_file(checkpoint.source)
    if checkpoint.file is not None or named is None:
        return checkpoint
    repository, name = named.repository, named.name
    names = hub.file_names(repository, None)
    if names and name not in names:
        raise _no_file(repository, name, names)
    folder = hub.fetch(repository, None, [glob.escape(name)], run.progress)
    if not (folder / name).is_file():
        raise NodeError(
            f"the local cache does not hold {name} of {repository}, and the hub cannot be reached",
            help="check the network (HF_ENDPOINT, HF_HUB_OFFLINE), or give a file",
        )
    return Checkpoint(checkpoint.source, folder / name, folder.name)


def _no_file(repository: str, name: str, names: list[str]) -> NodeError:
    """The error for a repository without the file."""
    others = sorted(other for other in names if other.endswith(SUFFIXES))
    others = get_close_matches(name, others, n=3, cutoff=0.4) or others[:3]
    help = f"it has {', '.join(others)}, …" if others else "it has no safetensors or GGUF file"
    return NodeError(f"{repository} has no file {name}", help=help)


def _hub_file(source: str) -> hub.HubFile | None:
    """The checkpoint on the hub that a source names; None for another source."""
    named = hub.hub_file(source)
    return named if named is not None and named.name.lower().endswith(SUFFIXES) else None
