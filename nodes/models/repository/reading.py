"""Reads one component from its files, with `from_pretrained` of its class."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....graph.contract.errors import NodeError
from ....graph.contract.node import Run
from ....graph.contract.process_state import exclusive
from ...support.quiet import quiet
from ..memory.host_memory import align
from . import early_tensors, hub, weight_files
from .component_classes import component_class, is_module
from .component_files import check_tokenizer, needs_weights, warnings_of_config
from .component_fit import OTHER, check_fit, on_meta, try_schedule
from .component_notes import note_component
from .loaded_bytes import mapped_bytes, total_bytes
from .repository import DAMAGED, Repository

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


def read(
    repository: Repository,
    part: str,
    variant: str | None,
    dtype: torch.dtype,
    device: str,
    run: Run,
    early: early_tensors.Tensors | None = None,
) -> Any:
    """Load a component: a module in evaluation mode on `device`, or a tokenizer, processor or scheduler.

    Args:
        repository: The repository of the component.
        part: Name of the component in model_index.json.
        variant: Variant of the weight files, such as `fp16`.
        dtype: Dtype of floating-point parameters, except those that the class keeps in float32.
        device: `cpu`, or a CUDA device, which receives the weights shard by shard (`device_map`; only
            tests/nodes/models/test_cuda.py tests this, on a GPU).
        run: Receives progress and warnings.
        early: Its tensors, if `read_early` has read them.

    Raises:
        NodeError: If the files are missing, damaged, only pickled, or do not fit the configuration.
    """
    library, name = repository.entry(part)
    folder, weights, variant = bring(repository, part, variant, run)
    if not weights and needs_weights(repository, part):
        raise _no_weights(repository, part, folder, variant)
    note_component(repository, part, weights, run)
    cls = component_class(repository.source, part, library, name, folder, run)
    if not is_module(cls):
        return read_small(repository, part, cls, folder, run)
    config, config_file = repository.config(part), repository.config_file(part)
    assert config_file is not None
    if not weights:
        raise _no_weights(repository, part, folder, variant)
    warn_of_config(repository, part, weights, run)
    if early is not None:
        module = _guarded(config_file, cls, lambda: early_tensors.module_of(cls, config, dtype, early, device))
        if device == "cpu":
            align(module, weights)
        return module.eval().requires_grad_(False)
    check_fit(on_meta(cls, config, dtype, config_file), weights, config_file)
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
    run.loading(part, total_bytes(weights), mapped_bytes())
    with exclusive(), quiet():  # the loaders change functions and variables of torch for all threads
        module, info = _guarded(config_file, cls, lambda: cls.from_pretrained(str(folder), **options))
    _complete(folder, config_file, weights, info, run)
    if device == "cpu":
        align(module, weights)
    return module.eval().requires_grad_(False)


def read_early(
    repository: Repository,
    part: str,
    variant: str | None,
    dtype: torch.dtype,
    device: str,
    run: Run,
    stop: Callable[[], bool],
) -> early_tensors.Tensors | None:
    """Read the tensors of a model of diffusers to its device, from another thread than that of the plan.

    The arguments are those of `read`.

    Args:
        stop: Whether nobody needs them any more.

    Returns:
        The tensors for `read`; None if `stop` was true, or only the loader of the library can read the component.

    Raises:
        NodeError: See `read`, which raises it again.
    """
    library, name = repository.entry(part)
    folder, weights, _ = bring(repository, part, variant, run)
    if library != "diffusers" or not weights:
        return None
    cls = component_class(repository.source, part, library, name, folder, run)
    config_file = repository.config_file(part)
    if not is_module(cls) or config_file is None:
        return None
    module = on_meta(cls, repository.config(part), dtype, config_file)
    check_fit(module, weights, config_file)
    return early_tensors.read(module, weights, device, stop)


def read_small(repository: Repository, part: str, cls: Any, folder: Path, run: Run) -> Any:
    """Load a tokenizer, a processor or a scheduler from its folder.

    Raises:
        NodeError: If a file is damaged or missing, or holds values that the class does not take.
    """
    library, _ = repository.entry(part)
    is_tokenizer = "tokenizer" in part
    if is_tokenizer:
        check_tokenizer(folder)
    else:
        warn_of_config(repository, part, [], run)

    def load() -> Any:
        made = cls.from_pretrained(str(folder), **_options(library, run))
        if is_tokenizer:
            made("a")
        elif hasattr(made, "set_timesteps"):
            try_schedule(made)
        return made

    try:
        with exclusive(), quiet():
            made = load()
    except Exception as error:
        if is_tokenizer:
            check_tokenizer(folder, parse_all=True)
        file = repository.config_file(part) or folder
        what = f"the files of {folder} make no {cls.__name__}" if is_tokenizer else f"{file} makes no {cls.__name__}"
        raise NodeError(what, help=f"a file was changed, or is for another version of {library}; {DAMAGED}") from error
    if is_tokenizer:
        _check_vocabulary(repository, part, made, folder)
    return made


def scheduler(repository: Repository, part: str, cls: Any, run: Run) -> Any:
    """A scheduler from its configuration alone.

    Raises:
        NodeError: If it holds values that the class does not take.
    """
    warn_of_config(repository, part, [], run)
    try:
        with exclusive(), quiet():
            made = cls.from_config(repository.config(part))
            try_schedule(made)
    except Exception as error:
        file = repository.config_file(part)
        raise NodeError(f"{file} makes no {cls.__name__}", help=f"a file was changed; {DAMAGED}") from error
    return made


def warn_of_config(repository: Repository, part: str, weights: list[Path], run: Run) -> None:
    """Check the configuration of a component, and warn of options that its class does not have.

    Raises:
        NodeError: If the class cannot be built with a value.
    """
    library, name = repository.entry(part)
    for warning in warnings_of_config(repository, part, repository.config(part), library, name, weights):
        run.warn(f"{warning.message}; {warning.help}")


def _check_vocabulary(repository: Repository, part: str, tokenizer: Any, folder: Path) -> None:
    """Check that the text encoder has an embedding for each token."""
    encoder = part.replace("tokenizer", "text_encoder")
    if encoder not in repository.components or repository.config_file(encoder) is None:
        return
    config = repository.config(encoder)
    inner = config.get("text_config")
    both = (config, inner if isinstance(inner, dict) else {})
    sizes = [size for each in both if isinstance(size := each.get("vocab_size"), int)]
    added = tokenizer.get_added_vocab()  # tokens that a text seldom has
    largest = max((number for token, number in tokenizer.get_vocab().items() if token not in added), default=-1)
    if largest < 0:
        raise NodeError(f"{folder} holds a tokenizer without a vocabulary", help=DAMAGED)
    if sizes and largest >= max(sizes):
        file = repository.config_file(encoder)
        raise NodeError(
            f"{folder} has tokens up to number {largest}, and the encoder has {max(sizes)} (`vocab_size` of {file})",
            help="the tokenizer belongs to another model: download the model again",
        )


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


def _guarded(config: Path, cls: Any, load: Any) -> Any:
    """Call a loader of a library. Its errors become messages that name the configuration."""
    import torch

    try:
        return load()
    except NodeError:
        raise
    except torch.OutOfMemoryError:
        raise
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        raise NodeError(f"{config}: no {cls.__name__} can be loaded with these values", help=OTHER) from error
    except Exception as error:
        # The system or the device may be at fault, so the reason belongs into the message.
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise NodeError(
            f"{config.parent} cannot be loaded: {reason}",
            help="the files do not fit this version of the library, or the copy is damaged",
        ) from error


def _complete(folder: Path, config: Path, weights: list[Path], info: Any, run: Run) -> None:
    """Raise if the files lacked some parameters, which the library fills with random numbers."""
    files, several = (f"the files of {folder}", True) if len(weights) > 1 else (str(weights[0]), False)
    missing = sorted(info.get("missing_keys") or ())
    mismatched = sorted(str(m[0]) for m in info.get("mismatched_keys") or ())
    for keys, faults in (
        (missing, ("lacks", "lack")),
        (mismatched, ("has another shape of", "have another shape of")),
    ):
        if keys:
            shown = ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
            raise NodeError(
                f"{files} {faults[several]} parameters that {config} asks for: {shown}",
                help="the config belongs to other weights, or the copy is incomplete",
            )
    unexpected = sorted(info.get("unexpected_keys") or ())
    if unexpected:
        some = ", ".join(unexpected[:2]) + (", …" if len(unexpected) > 2 else "")
        run.warn(f"{len(unexpected)} tensors in {files} are not used: {some}")
