"""Group offloading of diffusers on a view: its hooks, its groups, and its bytes on the device.

A hook of diffusers moves a group's tensors to the device before a forward call and back after it
(hooks/group_offloading.py). diffusers puts hooks only on modules whose forward is called. Callers of a VAE call
`decode` and `encode` instead, and a text encoder holds its blocks several levels down. This module therefore names the
modules that hold the blocks.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ...support import cost_meter

if TYPE_CHECKING:
    import torch

CALLED_BY_VAE = ("quant_conv", "post_quant_conv", "encoder", "decoder")
"""Modules that a VAE's `decode` and `encode` call. AutoencoderKL lists them itself; AutoencoderKLHunyuanVideo does
not."""

COPIED_CACHES = ("AutoencoderKLQwenImage",)
"""Classes that pass lists as positional arguments and change them. Hooks copy positional arguments, so results would
be wrong."""


def attach(
    module: Any,
    granularity: str,
    blocks: int,
    device: str,
    *,
    stream: bool = False,
    low_memory: bool = False,
    host: str = "cpu",
) -> None:
    """Add hooks to a view whose tensors are in host memory.

    Args:
        module: The view. It may share its parameters with other views. Its buffers are copied, since hooks replace
            buffers.
        granularity: `blocks` or `leaf`.
        blocks: Number of blocks in a group.
        device: Device of the tensors during a forward call.
        stream: Transfer the next group on a separate CUDA stream while the current group computes.
        low_memory: Pin host memory for each transfer instead of all of it beforehand.
        host: Device of the tensors between calls: `cpu`, or `meta` in a plan.
    """
    from diffusers.hooks import apply_group_offloading

    for owner in module.modules():
        for name, buffer in owner.named_buffers(recurse=False):
            owner._buffers[name] = buffer.clone()
    options: dict[str, Any] = {"offload_type": "leaf_level"}
    if granularity == "blocks":
        parents = _block_parents(module)
        options = {"offload_type": "block_level", "num_blocks_per_group": blocks, "block_modules": parents}
    apply_group_offloading(
        module,
        onload_device=device,
        offload_device=host,
        use_stream=stream,
        low_cpu_mem_usage=low_memory,
        **options,
    )


def detach(module: Any) -> None:
    """Remove the hooks, and move tensors that a failed forward call left on the device back to the host."""
    from diffusers.hooks import group_offloading as library

    names = (
        library._LAYER_EXECUTION_TRACKER,
        library._LAZY_PREFETCH_GROUP_OFFLOADING,
        library._GROUP_OFFLOADING,
    )
    for part in module.modules():
        registry = getattr(part, "_diffusers_hook", None)
        if registry is not None:
            for name in names:
                registry.remove_hook(name, recurse=False)
    module.to("cpu")


def put_back(module: torch.nn.Module) -> None:
    """Move groups that a stream brought ahead, and no call used, back to the host."""
    for part in module.modules():
        group = _group(part)
        if group is not None and group.stream is not None:
            group.offload_()


@contextmanager
def brought_in(module: torch.nn.Module) -> Iterator[None]:
    """Keep a module's group on the device inside `with`, for code that uses its tensors without calling the module."""
    group = _group(module)
    if group is None:
        yield
        return
    group.onload_()
    if group.stream is not None:
        group.stream.synchronize()
    try:
        yield
    finally:
        group.offload_()


@contextmanager
def unhooked(module: torch.nn.Module) -> Iterator[None]:
    """Disable a module's hooks inside `with`, for code that calls the module with replaced tensors."""
    hooked = {part: vars(part).pop("forward") for part in module.modules() if _group(part) is not None}
    try:
        yield
    finally:
        for part, forward in hooked.items():
            part.forward = forward


def _group(module: torch.nn.Module) -> Any:
    """The group that a module's forward call moves to the device; None without a group."""
    registry = getattr(module, "_diffusers_hook", None)
    if registry is None:
        return None
    from diffusers.hooks.group_offloading import _GROUP_OFFLOADING

    hook = registry.get_hook(_GROUP_OFFLOADING)
    return None if hook is None else hook.group


def _block_parents(module: Any) -> list[str] | None:
    """Names of the modules that hold the blocks; None for the default of diffusers."""
    if hasattr(module, "decode") and hasattr(module, "encode"):
        return [name for name in CALLED_BY_VAE if getattr(module, name, None) is not None]
    if hasattr(type(module), "config_class"):  # a transformers model
        from torch.nn import Embedding

        found: set[str] = set()
        _add_block_parents(module, found)
        # Some models use the embedding table before they call the module that holds it, so the table is a group.
        found |= {path.rsplit(".", 1)[-1] for path, part in module.named_modules() if isinstance(part, Embedding)}
        return sorted(found)
    return None


def _add_block_parents(module: torch.nn.Module, found: set[str]) -> bool:
    """Whether a module contains a list of blocks. Adds the names of the modules on the path to `found`."""
    from torch.nn import ModuleList, Sequential

    has_blocks = False
    for name, child in module.named_children():
        if isinstance(child, ModuleList | Sequential):
            has_blocks = True
        elif _add_block_parents(child, found):
            found.add(name)
            has_blocks = True
    return has_blocks


def groups(module: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    """Path and group for each group of a view with hooks. The module at the path moves the group when it is called."""
    seen: set[int] = set()
    for path, part in module.named_modules():
        group = _group(part)
        if group is not None and id(group) not in seen:
            seen.add(id(group))
            yield path, group


def tensors(group: Any) -> Mapping[int, torch.Tensor]:
    """The parameters and buffers of a group by their `id`."""
    found = [*group.parameters, *group.buffers]
    for part in group.modules:
        found += [*part.parameters(), *part.buffers()]
    return {id(tensor): tensor for tensor in found}


def resident(module: torch.nn.Module, granularity: str, blocks: int, *, stream: bool) -> int:
    """Largest number of bytes of a component on the device at a time.

    This is the largest group plus the groups of its parent modules. A stream adds the next group.

    Args:
        module: The component, without hooks. It does not change.
    """
    with cost_meter.building():
        # Hooks form reference cycles, which would keep the component's own tensors until the next garbage collection.
        twin = _meta_copy(module)
        attach(twin, granularity, blocks, "cpu", host="meta")  # moves no tensors
    sizes = {path: _bytes(group) for path, group in groups(twin)}
    most = next_one = 0
    for path, size in sizes.items():
        around = sum(s for outer, s in sizes.items() if outer != path and _contains(outer, path))
        most = max(most, size + around)
        next_one = max(next_one, size) if path else next_one
    return most + (next_one if stream else 0)


def _meta_copy(module: torch.nn.Module) -> torch.nn.Module:
    """Copy a module tree to the meta device. Tied tensors stay tied."""
    import torch
    from torch.nn import Parameter

    tensors: dict[int, Any] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        empty = torch.empty_like(tensor, device="meta")
        tensors[id(tensor)] = Parameter(empty, requires_grad=False) if isinstance(tensor, Parameter) else empty
    return copy.deepcopy(module, tensors)


def _contains(outer: str, path: str) -> bool:
    return not outer or path.startswith(f"{outer}.")


def _bytes(group: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors(group).values())
