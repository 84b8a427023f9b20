"""Repositories on the Hugging Face hub: the local cache, downloads, and errors of the hub.

Only the files of needed components are downloaded, with weights only as safetensors. All files of a model come from
one commit: the commit of the revision at the time when the model's configurations are read.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ....graph.contract.errors import NodeError
from ....graph.contract.process_state import released

STEMS = ("diffusion_pytorch_model", "model")
CONFIGS = ("model_index.json", "*/config.json", "*/*_config.json", "*/*.index.json", "*/*.index.*.json")
# Python files are downloaded, but run only with `trust_remote_code`.
SMALL_FILES = (".json", ".txt", ".model", ".jinja", ".tiktoken", ".py")


def is_hub_id(source: str) -> bool:
    """Whether `source` has the form `owner/name` of a repository on the hub."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", source) is not None


class HubFile(NamedTuple):
    """A file in a repository on the hub.

    Attributes:
        repository: `owner/name`.
        name: Path of the file inside the repository.
    """

    repository: str
    name: str


def hub_file(source: str) -> HubFile | None:
    """The file that `owner/name/path/file.suffix` names; None if `source` has another form."""
    owner, _, rest = source.partition("/")
    name, _, path = rest.partition("/")
    repository = f"{owner}/{name}"
    parts = path.split("/")
    if not is_hub_id(repository) or any(part in ("", ".", "..") for part in parts) or "\\" in path:
        return None
    return HubFile(repository, path) if re.search(r"[^.]\.[A-Za-z]\w*$", parts[-1]) else None


def is_revision(revision: str) -> bool:
    """Whether `revision` can be the name of a branch, a tag or a commit. A path such as `../x` cannot."""
    parts = revision.split("/")
    return len(revision) <= 255 and all(re.fullmatch(r"\w[\w.+-]*", part) for part in parts)


def check_revision(revision: str) -> None:
    """Check the form of a revision.

    Raises:
        NodeError: If `revision` cannot be the name of a branch, a tag or a commit.
    """
    if not is_revision(revision):
        raise NodeError(f"{revision!r} is not a revision", help="name a branch, a tag or a commit of the repository")


def cached(source: str, revision: str | None, file: str = "model_index.json") -> Path | None:
    """The snapshot folder of `source` at `revision` in the local cache; None if it does not hold `file`.

    Reads the documented layout of the cache. Importing the hub library would take longer than a whole check.
    """
    if not is_hub_id(source):
        return None
    if revision is not None:
        check_revision(revision)
    from huggingface_hub import constants

    repository = Path(constants.HF_HUB_CACHE) / ("models--" + source.replace("/", "--"))
    commit = revision or "main"
    reference = repository / "refs" / commit
    if reference.is_file():
        try:
            commit = reference.read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return None  # the client writes the file again when it downloads
        if not is_revision(commit):
            return None
    snapshot = repository / "snapshots" / commit
    return snapshot if (snapshot / file).is_file() else None


def blob_sha256(file: Path) -> str | None:
    """The SHA-256 of a large file in the local cache, which is the name of its blob; None for every other file.

    Small files are blobs with the SHA-1 that Git gives them.
    """
    blob = file.resolve()
    if blob.parent.name != "blobs" or not re.fullmatch("[0-9a-f]{64}", blob.name):
        return None
    from huggingface_hub import constants

    return blob.name if blob.is_relative_to(Path(constants.HF_HUB_CACHE).resolve()) else None


def fetch(
    source: str, revision: str | None, patterns: Sequence[str], progress: Callable[[int, int, str], None] | None = None
) -> Path:
    """Download the files of `source` at `revision` that match `patterns`.

    An interrupted download resumes. Cached files are not downloaded again. If the hub cannot be reached, a complete
    cached snapshot is used.

    Args:
        source: `owner/name`.
        revision: A branch, a tag or a commit; None for the default branch.
        patterns: Shell patterns of paths inside the repository.
        progress: Called with the received bytes, the total bytes, and a label.

    Returns:
        The snapshot's folder. Its name is the commit.

    Raises:
        NodeError: If the repository, the revision or the files cannot be downloaded; the message gives the reason.
    """
    import huggingface_hub

    try:
        with released():
            folder = huggingface_hub.snapshot_download(
                source, revision=revision, allow_patterns=list(patterns), tqdm_class=_bar(source, progress)
            )
    except Exception as error:
        raise explain(error, source, revision) from error
    return Path(folder)


def file_names(source: str, commit: str | None) -> list[str]:
    """Ask the hub for the names of all files of a repository; empty if the hub cannot be reached.

    `model_info` fails at once without a network. The client's other file lists retry for half a minute.
    """
    import huggingface_hub

    try:
        return [file.rfilename for file in huggingface_hub.HfApi().model_info(source, revision=commit).siblings or ()]
    except Exception:
        return []


def component_patterns(part: str, variant: str | None) -> list[str]:
    """Make the patterns of one component's files: small files, and the safetensors files of one variant."""
    patterns = [f"{part}/*{ending}" for ending in SMALL_FILES]
    for stem in STEMS:
        if variant:
            patterns += [f"{part}/{stem}.{variant}*.safetensors", f"{part}/{stem}-*.{variant}.safetensors"]
        else:
            patterns += [f"{part}/{stem}.safetensors", f"{part}/{stem}-*-of-[0-9][0-9][0-9][0-9][0-9].safetensors"]
    return patterns


def explain(error: Exception, source: str, revision: str | None) -> NodeError:
    """Make a `NodeError` for a failed hub call, with a message and help for the user."""
    from huggingface_hub import errors

    wanted = f"{source} at revision {revision}" if revision else source
    status = next((s for e in _chain(error) if (s := getattr(getattr(e, "response", None), "status_code", None))), None)
    login = "log in with `hf auth login` (or set HF_TOKEN) with an account that has access"
    if isinstance(error, errors.GatedRepoError):
        return NodeError(
            f"{source} is gated: only accounts that accepted its terms may download its files",
            help=f"accept the terms at https://huggingface.co/{source}, then {login}",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return NodeError(
            f"{source} has no revision {revision or 'main'}",
            help=f"https://huggingface.co/{source}/commits lists the branches, tags and commits",
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return NodeError(
            f"{source} is not a folder, and the hub has no public repository with this name",
            help=f"check the spelling; for a private repository {login}",
        )
    if isinstance(error, errors.HFValidationError):
        return NodeError(f"{source} is neither a folder nor the name of a hub repository", help="write owner/name")
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return NodeError(
            f"the disk is full: {source} could not be downloaded",
            help="free space, or set HF_HOME to a folder on a larger disk; the download resumes where it stopped",
        )
    if status in (401, 403):
        return NodeError(f"the hub refuses access to {wanted} (HTTP {status})", help=login)
    if status is not None:
        return NodeError(f"the hub answered HTTP {status} for {wanted}", help="try again later; downloads resume")
    if any(isinstance(e, errors.OfflineModeIsEnabled) for e in _chain(error)):
        return NodeError(
            f"{wanted} is not completely in the local cache, and HF_HUB_OFFLINE forbids downloads",
            help="unset HF_HUB_OFFLINE, or give a folder that holds the model",
        )
    reason = str(error).strip().splitlines() or [type(error).__name__]
    return NodeError(
        f"{wanted} is not completely in the local cache, and the hub cannot be reached: {reason[0]}",
        help="check the network (HF_ENDPOINT, proxies), or give a folder that holds the model; downloads resume",
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and its causes. After a failed cache lookup, the client wraps the hub's answer in another error."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _bar(source: str, progress: Callable[[int, int, str], None] | None) -> Any:
    """Make a progress bar class for the hub's client. It prints nothing and passes the received bytes to `progress`."""
    from tqdm.auto import tqdm  # type: ignore[import-untyped]

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)
            self._bytes = kwargs.get("unit") == "B"
            self._received = int(kwargs.get("initial") or 0)
            super().__init__(*args, **{**kwargs, "disable": True})
            self.total = kwargs.get("total")

        def update(self, n: float | None = 1) -> None:
            self._received += int(n or 0)
            # The total can be too small until the size of every file is known, so cap the bytes at the total.
            if progress is not None and self._bytes and self.total:
                progress(min(self._received, int(self.total)), int(self.total), f"download {source}")

    return Bar
