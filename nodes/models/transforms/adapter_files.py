"""Find a LoRA file on this disk or on the hub. Only the safetensors file is read or downloaded."""

from __future__ import annotations

import glob
from pathlib import Path, PurePosixPath

from ....graph.contract.errors import NodeError
from ....graph.contract.node import Run
from ..adapters.adapter_header import CONFIG
from ..repository import hub, weight_files

SUFFIX = ".safetensors"
HELP = "give a file, a folder, a hub repository (owner/name), or a file of one (owner/name/file.safetensors)"
CONVERT = "get the LoRA as safetensors, or convert it on a machine without important data"


def check_name(weight_name: str) -> None:
    """Check the name of a safetensors file inside a folder or a repository.

    Raises:
        NodeError: If the name has another suffix or leads out of the folder.
    """
    path = PurePosixPath(weight_name)
    if path.suffix != SUFFIX:
        raise NodeError(f"{weight_name} is not a safetensors file; reading other formats can run code", help=CONVERT)
    if path.is_absolute() or ".." in path.parts or "\\" in weight_name:
        raise NodeError(
            f"{weight_name} is not a path inside the folder or repository of the LoRA",
            help="write name.safetensors, or folder/name.safetensors for a file in a subfolder",
        )


def file_in_source(source: str, weight_name: str | None) -> tuple[str, str | None]:
    """A source and the name of the file in it; `owner/name/path/file.safetensors` is both in one.

    Raises:
        NodeError: If a name is not that of a safetensors file, or both `source` and `weight_name` name a file.
    """
    named = hub.hub_file(source)
    if named is None:
        if weight_name is not None:
            check_name(weight_name)
        return source, weight_name
    if weight_name is not None:
        raise NodeError(
            f"{source} names a file, and weight_name names {weight_name}",
            help=f"leave weight_name out, or set source: {named.repository}",
        )
    check_name(named.name)
    return named.repository, named.name


def cached(source: str, weight_name: str | None, revision: str | None) -> Path | None:
    """The file of a LoRA in a hub repository, in the local cache; None if it is not there, or not named.

    Raises:
        NodeError: If the file is damaged, or a name is wrong.
    """
    source, weight_name = file_in_source(source, weight_name)
    snapshot = hub.cached(source, revision, weight_name) if weight_name is not None else None
    return None if snapshot is None or weight_name is None else _checked(snapshot / weight_name)


def local(source: str, weight_name: str | None) -> Path | None:
    """The file of a LoRA on this disk, its header checked; None if it is one of a hub repository.

    Raises:
        NodeError: If there is no such file, it is not a safetensors file, or a folder holds several and `weight_name`
            is None.
    """
    source, weight_name = file_in_source(source, weight_name)
    if hub.is_hub_id(source) and not source.endswith(SUFFIX):
        return None
    try:
        path = Path(source).expanduser()
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, ValueError, RuntimeError) as error:
        raise NodeError(f"{source[:60]}… is not a path", help=HELP) from error
    if is_folder:
        return _inside(path, source, weight_name)
    if is_file:
        if path.suffix != SUFFIX:
            raise NodeError(f"{source} is not a safetensors file; reading other formats can run code", help=CONVERT)
        if weight_name not in (None, path.name):
            raise NodeError(
                f"{source} is a file, and its name is not {weight_name}", help="leave weight_name out, or give a folder"
            )
        return _checked(path)
    raise NodeError(f"there is no file or folder {source}", help=HELP)


def download(source: str, revision: str | None, weight_name: str | None, run: Run) -> tuple[Path, str]:
    """Find a LoRA file on the hub, and its commit. The file is downloaded if it is not in the cache.

    Raises:
        NodeError: If the file cannot be downloaded or is damaged, or if the repository holds several and `weight_name`
            is None.
    """
    if revision is not None:
        hub.check_revision(revision)
    source, weight_name = file_in_source(source, weight_name)
    names = hub.file_names(source, revision)
    if names:
        weight_name = _pick(names, source, weight_name)
    # Without an answer of the hub, use the named file or the only file in the cache. A download of every safetensors
    # file could be a whole model.
    wanted = [] if weight_name is None else [weight_name, str(PurePosixPath(weight_name).with_name(CONFIG))]
    folder = hub.fetch(source, revision, [glob.escape(name) for name in wanted], run.progress)
    if not names and not any(folder.glob("*" + SUFFIX if weight_name is None else glob.escape(weight_name))):
        raise NodeError(
            f"the local cache does not hold the LoRA file of {source}, and the hub cannot be reached",
            help="check the network (HF_ENDPOINT, HF_HUB_OFFLINE), or give a file",
        )
    return _inside(folder, source, weight_name), folder.name


def _inside(folder: Path, source: str, weight_name: str | None) -> Path:
    names = [file.name for file in folder.glob("*" + SUFFIX)]
    if weight_name is not None and (folder / weight_name).is_file():
        names.append(weight_name)
    return _checked(folder / _pick(names, source, weight_name))


def _checked(file: Path) -> Path:
    weight_files.check(file)
    return file


def _pick(names: list[str], source: str, weight_name: str | None) -> str:
    """`weight_name`, or the only name at the top level of a folder or repository if `weight_name` is None."""
    names = sorted(name for name in names if name.endswith(SUFFIX))
    if weight_name is not None:
        if weight_name not in names:
            raise NodeError(f"{source} has no file {weight_name}", help=f"its safetensors files: {_some(names, ', ')}")
        return weight_name
    top = [name for name in names if "/" not in name]
    if not top:
        deeper = f"subfolders hold safetensors files; set weight_name: {_some(names, ' or ')}" if names else None
        raise NodeError(f"{source} holds no safetensors file", help=deeper or "only safetensors files are read")
    if len(top) > 1:
        raise NodeError(f"{source} holds {len(top)} safetensors files", help=f"set weight_name: {_some(top, ' or ')}")
    return top[0]


def _some(names: list[str], between: str) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (between.join(names[:5]) or "none") + more
