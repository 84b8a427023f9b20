"""The tensors of a component, brought to the device by another thread while nodes work that do not need them.

The loaders of diffusers and transformers change functions and variables of torch for all threads. This module reads
the same numbers with safetensors alone, and leaves the making of the module to the thread that runs the plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import dummy, weight_files
from .staging import staging

if TYPE_CHECKING:
    import torch

Tensors = Mapping[str, "torch.Tensor"]


def read(
    module: torch.nn.Module, files: list[Path], device: str, stop: Callable[[], bool]
) -> dict[str, torch.Tensor] | None:
    """Read the tensors of a module's files to a device, in the dtypes of the module.

    On a GPU they are copied in a stream of their own, through pinned memory, so that kernels of other threads go on
    meanwhile.

    Args:
        module: The module on the meta device.
        files: Its weight files.
        device: Where the tensors go.
        stop: Asked before each tensor.

    Returns:
        The tensors by name; None if `stop` was true, or if the names are not those of the module, which the loader of
        the library renames or reports.
    """
    from safetensors import safe_open

    expected = module.state_dict()
    names = {name for file in files for name in weight_files.header(file) if name != "__metadata__"}
    if names != set(expected):
        return None
    made: dict[str, torch.Tensor] = {}
    with own_stream(device):
        buffers = staging(device)
        for file in files:
            with safe_open(file, framework="pt") as opened:
                for name in opened.offset_keys():
                    if stop():
                        return None
                    tensor = opened.get_tensor(name)
                    moved = tensor if buffers is None else buffers.on_device(tensor)
                    made[name] = moved.to(device=device, dtype=expected[name].dtype)
    return made


@contextmanager
def own_stream(device: str) -> Iterator[None]:
    """On a GPU, put the work of this thread inside `with` into a stream of its own, and wait for it at the end."""
    import torch

    if not device.startswith("cuda"):
        yield
        return
    stream = torch.cuda.Stream(device)
    with torch.cuda.stream(stream):
        yield
    stream.synchronize()


def taken_over(tensors: Tensors) -> Tensors:
    """The same tensors, for use in this thread's stream: their memory is reused only after its work."""
    import torch

    for tensor in tensors.values():
        if tensor.is_cuda:
            tensor.record_stream(torch.cuda.current_stream(tensor.device))
    return tensors


def module_of(
    cls: Any, config: Mapping[str, Any], dtype: torch.dtype, tensors: Tensors, device: str
) -> torch.nn.Module:
    """A module of diffusers with these tensors, as its loader makes it. Tied parameters get one tensor.

    Raises:
        NodeError: If the class cannot be built from its configuration.
    """
    import torch

    module = dummy.empty_module(cls, config, dtype)
    made: dict[int, torch.nn.Parameter] = {}
    for path, owner in list(module.named_modules()):
        prefix = f"{path}." if path else ""
        for name, parameter in list(owner.named_parameters(recurse=False)):
            if id(parameter) not in made:
                made[id(parameter)] = torch.nn.Parameter(tensors[prefix + name], requires_grad=False)
            owner.register_parameter(name, made[id(parameter)])
        for name, _ in list(owner.named_buffers(recurse=False)):
            if name not in owner._non_persistent_buffers_set:
                setattr(owner, name, tensors[prefix + name])
    dummy.place_buffers(module, device)
    return module
