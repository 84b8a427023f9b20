"""Builds a component and fills it from a one-file checkpoint, one parameter after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ....graph.contract.errors import NodeError
from ....graph.contract.node import Run
from ..adapters.layer_table import of_shapes
from ..repository import component_fit, dummy
from ..repository.component_classes import component_class, is_module
from ..repository.component_notes import note_file
from ..repository.early_tensors import Tensors, own_stream
from ..repository.repository import Repository
from . import checkpoint_header, component_layouts
from .checkpoint_match import CheckpointMatch, match
from .checkpoint_source import Checkpoint
from .checkpoint_tensors import TensorReader
from .component_layouts import ComponentLayout
from .stored_tensors import CheckpointHeader


def read(
    repository: Repository,
    part: str,
    checkpoint: Checkpoint,
    dtype: torch.dtype,
    device: str,
    run: Run,
    early: Tensors | None = None,
) -> torch.nn.Module:
    """A component of a repository with the weights of a checkpoint. The arguments and errors are those of `load`."""
    library, name = repository.entry(part)
    cls = component_class(repository.source, part, library, name, repository.folder / part, run)
    if checkpoint.file is None:
        raise NodeError(f"{checkpoint.source} is not on this disk")
    note_file(checkpoint.source, checkpoint.file, run)
    header = checkpoint_header.read(checkpoint.file)
    return load(cls, repository.config(part), header, part, dtype, device, run, early)


def read_early(
    repository: Repository,
    part: str,
    checkpoint: Checkpoint,
    dtype: torch.dtype,
    device: str,
    run: Run,
    stop: Callable[[], bool],
) -> Tensors | None:
    """Read the parameters of a component in another thread than that of the plan, for `early` of `read`.

    On a GPU they are copied in a stream of their own. `stop` is asked before each parameter.

    Returns:
        The parameters by name; None if `stop` was true, or the file does not fit the component.

    Raises:
        NodeError: See `read`, which raises it again.
    """
    library, name = repository.entry(part)
    config_file = repository.config_file(part)
    cls = component_class(repository.source, part, library, name, repository.folder / part, run)
    if checkpoint.file is None or config_file is None or not is_module(cls):
        return None
    config, header = repository.config(part), checkpoint_header.read(checkpoint.file)
    module = component_fit.on_meta(cls, config, dtype, config_file)
    found = match(header, _layout(module, config), part)
    if any(problem.severity == "error" for problem in found.problems):
        return None
    made: dict[str, torch.Tensor] = {}
    with own_stream(device), TensorReader(header, found, _compute(device, run)) as reader:
        for name, parameter in module.named_parameters():
            if stop():
                return None
            if name in found.parts:
                made[name] = reader.parameter(name, parameter.shape, parameter.dtype, device)
    return made


def load(
    cls: Any,
    config: Mapping[str, Any],
    header: CheckpointHeader,
    part: str,
    dtype: torch.dtype,
    device: str,
    run: Run,
    early: Tensors | None = None,
) -> torch.nn.Module:
    """A component with the weights of a file, in evaluation mode.

    Args:
        cls: The component's class.
        config: Its configuration.
        header: The file's header.
        part: Name of the component.
        dtype: Dtype of floating-point parameters, except those that the class keeps in float32.
        device: Where the component goes. Quantised weights are computed on the run's device.
        run: Receives progress and warnings.
        early: Parameters that `read_early` has read.

    Raises:
        NodeError: If the file does not fit the component, or cannot be read.
    """
    module = dummy.empty_module(cls, config, dtype)
    found = match(header, _layout(module, config), part)
    for problem in found.problems:
        if problem.severity == "error":
            raise NodeError(problem)
        run.warn(problem.message)
    _fill(module, header, found, device, run, early or {})
    dummy.place_buffers(module, device)
    return module.eval().requires_grad_(False)


def _layout(module: torch.nn.Module, config: Mapping[str, Any]) -> ComponentLayout:
    """The layout of a module; without a table for its class, the names of its state dict."""
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    known = component_layouts.of_config(type(module).__name__, config)
    if known is not None and known.table.shapes == shapes:
        return known
    first: dict[int, str] = {}
    named = module.named_parameters(remove_duplicate=False)
    tied = {name: other for name, tensor in named if (other := first.setdefault(id(tensor), name)) != name}
    return ComponentLayout(type(module).__name__, of_shapes(shapes), tied)


def _compute(device: str, run: Run) -> str:
    """The device that computes the quantised weights of a component on `device`."""
    return run.device if run.device.startswith("cuda") else device


def _fill(
    module: torch.nn.Module, header: CheckpointHeader, found: CheckpointMatch, device: str, run: Run, early: Tensors
) -> None:
    """Give a module the parameters of a file. Tied parameters get one tensor."""
    made: dict[int, torch.nn.Parameter] = {}
    absent, done = set(found.absent), 0
    total = sum(parameter.numel() for parameter in module.parameters())
    with TensorReader(header, found, _compute(device, run)) as reader:
        for path, owner in list(module.named_modules()):
            for name, parameter in list(owner.named_parameters(recurse=False)):
                full = f"{path}.{name}" if path else name
                if id(parameter) not in made:
                    if full in absent:
                        values = torch.zeros_like(parameter, device=device)
                    elif full not in found.parts:
                        raise NodeError(f"{header.file.name}: {full} of {type(module).__name__} cannot be read")
                    elif full in early:
                        values = early[full]
                    else:
                        values = reader.parameter(full, parameter.shape, parameter.dtype, device)
                    made[id(parameter)] = torch.nn.Parameter(values, requires_grad=False)
                    done += parameter.numel()
                    run.progress(done, total, f"read {header.file.name}")
                owner.register_parameter(name, made[id(parameter)])


def parameters(
    module: torch.nn.Module, config: Mapping[str, Any], file: Path, part: str, prefixes: tuple[str, ...]
) -> dict[str, torch.Tensor]:
    """Some parameters of a component, on the CPU, in the dtypes of the module.

    Args:
        module: The component, on the meta device.
        config: Its configuration.
        file: The checkpoint.
        part: Name of the component.
        prefixes: Starts of the parameters' names.

    Raises:
        NodeError: If the file cannot be read.
    """
    header = checkpoint_header.read(file)
    found = match(header, _layout(module, config), part)
    wanted = {name: tensor for name, tensor in module.named_parameters() if name.startswith(prefixes)}
    with TensorReader(header, found, "cpu") as reader:
        return {
            name: reader.parameter(name, tensor.shape, tensor.dtype, "cpu")
            for name, tensor in wanted.items()
            if name in found.parts
        }
