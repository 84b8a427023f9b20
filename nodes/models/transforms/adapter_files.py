"""The file of a LoRA: on this disk, or one of a repository on the hub. Only safetensors, and nothing beside it."""

from __future__ import annotations

import glob
from pathlib import Path, PurePosixPath

from ....graph.contract.errors import NodeError
from ....graph.contract.node import Run
from ..repository import hub, weight_files

SUFFIX = ".safetensors"
SAFE = "get it as safetensors, or convert it on a machine you can lose"


def check_name(weight_name: str) -> None:
    """Refuse a name that is not that of a safetensors file inside a folder or a repository.

    Raises:
        NodeError: If it is of another format, or leads elsewhere.
    """
    path = PurePosixPath(weight_name)
    if path.suffix != SUFFIX:
        raise NodeError(
            f"{weight_name} is not a safetensors file; other formats can run code when they are read", help=SAFE
        )
    if path.is_absolute() or ".." in path.parts or "\\" in weight_name:
        raise NodeError(
            f"{weight_name} is not a name inside a folder or repository",
            help="write name.safetensors, or folder/name.safetensors for a file that lies deeper",
        )


def local(source: str, weight_name: str | None) -> Path | None:
    """The file of a LoRA on this disk, its header checked; None if `source` is the name of a hub repository.

    Raises:
        NodeError: If there is no such file, several to choose from, or it is not a safetensors file.
    """
    if weight_name is not None:
        check_name(weight_name)
    try:
        path = Path(source).expanduser()
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, ValueError, RuntimeError) as error:
        raise NodeError(f"{source[:60]}… is not a path", help="give a file, or the name of a hub repository") from error
    if is_folder:
        return _inside(path, source, weight_name)
    if is_file:
        if path.suffix != SUFFIX:
            raise NodeError(
                f"{source} is not a safetensors file; other formats can run code when they are read", help=SAFE
            )
        if weight_name not in (None, path.name):
            raise NodeError(
                f"{source} is a file, and not {weight_name}", help="leave weight_name out, or give a folder"
            )
        weight_files.check(path)
        return path
    if source.endswith(SUFFIX) or not hub.is_hub_id(source):
        raise NodeError(f"there is no file or folder {source}", help="give one, or the name of a hub repository")
    return None


def download(source: str, revision: str | None, weight_name: str | None, run: Run) -> tuple[Path, str]:
    """The file of a repository on the hub, downloaded if it is not in the cache, and the commit it is from.

    Raises:
        NodeError: If it cannot be had, there are several to choose from, or it is damaged.
    """
    if revision is not None:
        hub.check_revision(revision)
    names = hub.file_names(source, revision)
    if names:
        weight_name = _pick(names, source, weight_name)
    # Where the hub cannot be asked, the file named is taken from the cache, or the only one that is there: to ask for
    # any safetensors file might bring a whole model.
    folder = hub.fetch(source, revision, [] if weight_name is None else [glob.escape(weight_name)], run.progress)
    if not names and not any(folder.glob("*" + SUFFIX if weight_name is None else glob.escape(weight_name))):
        raise NodeError(
            f"the local cache holds no such file of {source}, and the hub cannot be asked for one",
            help="check the network (HF_ENDPOINT, HF_HUB_OFFLINE), or give a file",
        )
    return _inside(folder, source, weight_name), folder.name


def _inside(folder: Path, source: str, weight_name: str | None) -> Path:
    names = [file.name for file in folder.glob("*" + SUFFIX)]
    if weight_name is not None and (folder / weight_name).is_file():
        names.append(weight_name)
    chosen = folder / _pick(names, source, weight_name)
    weight_files.check(chosen)
    return chosen


def _pick(names: list[str], source: str, weight_name: str | None) -> str:
    """The name asked for, or else the only one at the top, of the files in a folder or repository."""
    names = sorted(name for name in names if name.endswith(SUFFIX))
    if weight_name is not None:
        if weight_name not in names:
            raise NodeError(f"{source} has no file {weight_name}", help=f"its safetensors files: {_some(names, ', ')}")
        return weight_name
    top = [name for name in names if "/" not in name]
    if not top:
        deeper = f"it holds some in folders; set weight_name: {_some(names, ' or ')}" if names else None
        raise NodeError(f"{source} holds no safetensors file", help=deeper or "only safetensors are read")
    if len(top) > 1:
        raise NodeError(f"{source} holds {len(top)} safetensors files", help=f"set weight_name: {_some(top, ' or ')}")
    return top[0]


def _some(names: list[str], between: str) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (between.join(names[:5]) or "none") + more
