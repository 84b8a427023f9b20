"""Reads one component from its files, with `from_pretrained` of its class."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....graph.contract.errors import NodeError
from ....graph.contract.node import Run
from ...support.quiet import quiet
from ..memory.host_memory import align
from . import hub, weight_files
from .component_classes import component_class, is_module
from .repository import Repository

if TYPE_CHECKING:
    import torch


def bring(repository: Repository, part: str, variant: str | None, run: Run) -> tuple[Path, list[Path], str | None]:
    """Find a component's folder, its checked weight files, and their variant. Missing files are downloaded.

    A component without weights of the requested variant uses its ordinary weights, with a warning.

    Raises:
        NodeError: If the files cannot be downloaded or are damaged.
    """
    folder = repository.bring(part, variant, run)
    weights = weight_files.weight_files(folder, variant)
    if not weights and variant:
        folder = repository.bring(part, None, run)
        weights = weight_files.weight_files(folder, None)
        if weights:
            run.warn(f"{repository.source}: {part} has no {variant} weights; its ordinary weights are used")
            variant = None
    return folder, weights, variant


def read(repository: Repository, part: str, variant: str | None, dtype: torch.dtype, device: str, run: Run) -> Any:
    """Load a component: a module in evaluation mode on `device`, or a tokenizer, processor or scheduler.

    Args:
        repository: The repository of the component.
        part: Name of the component in model_index.json.
        variant: Variant of the weight files, such as `fp16`.
        dtype: Dtype of floating-point parameters, except those that the class keeps in float32.
        device: `cpu`, or a CUDA device, which receives the weights shard by shard (`device_map`; only
            tests/nodes/models/test_cuda.py tests this, on a GPU).
        run: Receives progress and warnings.

    Raises:
        NodeError: If the files are missing, damaged, only pickled, or do not fit the configuration.
    """
    library, name = repository.entry(part)
    folder, weights, variant = bring(repository, part, variant, run)
    config = repository.config_file(part)
    if not weights and config is not None and config.name == "config.json":  # only modules have config.json
        raise _no_weights(repository, part, folder, variant)
    cls = component_class(repository.source, part, library, name, folder, run)
    if not is_module(cls):
        return read_small(repository, part, cls, folder, run)
    repository.config(part)  # raises if the file is missing or not JSON
    if not weights:
        raise _no_weights(repository, part, folder, variant)
    options = _options(library, run) | {
        "dtype": dtype,
        "use_safetensors": True,
        "low_cpu_mem_usage": True,
        "output_loading_info": True,
    }
    if variant:
        options["variant"] = variant
    if device != "cpu":
        options["device_map"] = {"": device}
    if library == "transformers":
        options.pop("low_cpu_mem_usage")  # transformers 5 always uses low memory and has no option for it
    with quiet():
        module, info = _guarded(repository, part, lambda: cls.from_pretrained(str(folder), **options))
    _complete(repository, part, info, run)
    if device == "cpu":
        align(module, weights)
    return module.eval().requires_grad_(False)


def read_small(repository: Repository, part: str, cls: Any, folder: Path, run: Run) -> Any:
    """Load a tokenizer, a processor or a scheduler from its folder."""
    library, _ = repository.entry(part)
    with quiet():
        return _guarded(repository, part, lambda: cls.from_pretrained(str(folder), **_options(library, run)))


def warm(paths: list[Path], stop: Any) -> None:
    """Read files into the page cache. The function returns early when `stop()` is true."""
    for path in paths:
        with path.open("rb", buffering=0) as stream:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
            block = bytearray(16 << 20)
            while stream.readinto(block):
                if stop():
                    return


def _no_weights(repository: Repository, part: str, folder: Path, variant: str | None) -> NodeError:
    names = [f.name for f in folder.iterdir()]
    if repository.kind == "hub":
        listed = hub.file_names(repository.source, repository.commit)
        names = [n.removeprefix(f"{part}/") for n in listed if n.startswith(f"{part}/")]
    return weight_files.no_weights(repository.source, part, names, variant, weight_files.variants(folder))


def _options(library: str, run: Run) -> dict[str, Any]:
    options: dict[str, Any] = {"local_files_only": True}
    if library == "transformers":
        options["trust_remote_code"] = bool(run.options.get("trust_remote_code"))
    return options


def _guarded(repository: Repository, part: str, load: Any) -> Any:
    import torch

    try:
        return load()
    except NodeError:
        raise
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise NodeError(
            f"{repository.source}: {part} cannot be loaded: {reason}",
            help=f"the files of {part} do not fit this version of the library, or the copy is damaged",
        ) from error


def _complete(repository: Repository, part: str, info: Any, run: Run) -> None:
    """Raise if the files lacked some parameters, which the library fills with random numbers."""
    missing = sorted(info.get("missing_keys") or ())
    mismatched = sorted(str(m[0]) for m in info.get("mismatched_keys") or ())
    for keys, fault in ((missing, "are not in its files"), (mismatched, "have another shape in its files")):
        if keys:
            shown = ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
            raise NodeError(
                f"{repository.source}: parameters of {part} {fault}: {shown}",
                help="the config belongs to other weights, or the copy is incomplete",
            )
    unexpected = sorted(info.get("unexpected_keys") or ())
    if unexpected:
        some = ", ".join(unexpected[:2]) + (", …" if len(unexpected) > 2 else "")
        run.warn(f"{repository.source}: {len(unexpected)} tensors in the files of {part} are not used: {some}")
