"""Group offloading of diffusers on a view: which modules form a group, how much of them is on the device at a time.

diffusers hangs a hook on modules that brings a group's tensors to the device before a forward and takes them back after
it (hooks/group_offloading.py). It asks for modules whose forward is called: VAEs are entered by `decode` and `encode`,
and a text encoder's blocks lie some levels down, so both are given the modules to look into.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ...support import planning_meter

if TYPE_CHECKING:
    import torch

ENTERED = ("quant_conv", "post_quant_conv", "encoder", "decoder")
"""Modules of a VAE that its `decode` and `encode` call. AutoencoderKL names them itself, AutoencoderKLHunyuanVideo
does not."""

COPIED_CACHES = ("AutoencoderKLQwenImage",)
"""Classes that pass lists by position and change them. Hooks copy positional arguments, so results would be wrong."""


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
    """Hang hooks on a view whose tensors are in the host's memory.

    Args:
        module: The view. Its parameters may be shared with other views; its buffers become its own, since hooks
            replace them.
        granularity: `blocks` or `leaf`.
        blocks: Blocks of a group.
        device: Where tensors are during a forward.
        stream: Bring the next group while this one computes, on a CUDA stream of its own.
        low_memory: Pin the host's memory for each transfer, and not all of it beforehand.
        host: Where tensors are between: `cpu`, or `meta` for those of a plan.
    """
    from diffusers.hooks import apply_group_offloading

    for owner in module.modules():
        for name, buffer in owner.named_buffers(recurse=False):
            owner._buffers[name] = buffer.clone()
    options: dict[str, Any] = {"offload_type": "leaf_level"}
    if granularity == "blocks":
        options = {"offload_type": "block_level", "num_blocks_per_group": blocks, "block_modules": _inner(module)}
    apply_group_offloading(
        module,
        onload_device=device,
        offload_device=host,
        use_stream=stream,
        low_cpu_mem_usage=low_memory,
        **options,
    )


def detach(module: Any) -> None:
    """Remove the hooks, and move tensors that a failed forward left on the device back to the host."""
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
    """Keep a module's group, if it has one, on the device, for code that reads the module without calling it."""
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
    """Switch the hooks of a module off, for code that calls it with tensors in place of its own."""
    hooked = {part: vars(part).pop("forward") for part in module.modules() if _group(part) is not None}
    try:
        yield
    finally:
        for part, forward in hooked.items():
            part.forward = forward


def _group(module: torch.nn.Module) -> Any:
    """The group that a module's forward brings in, None without one."""
    registry = getattr(module, "_diffusers_hook", None)
    if registry is None:
        return None
    from diffusers.hooks.group_offloading import _GROUP_OFFLOADING

    hook = registry.get_hook(_GROUP_OFFLOADING)
    return None if hook is None else hook.group


def _inner(module: Any) -> list[str] | None:
    """Names of the modules with blocks; None for diffusers' own choice."""
    if hasattr(module, "decode") and hasattr(module, "encode"):
        return [name for name in ENTERED if getattr(module, name, None) is not None]
    if hasattr(type(module), "config_class"):  # of transformers
        from torch.nn import Embedding

        found: set[str] = set()
        _lead_to_blocks(module, found)
        # Some models look words up before they call the part that holds the table: it is a group by itself.
        found |= {path.rsplit(".", 1)[-1] for path, part in module.named_modules() if isinstance(part, Embedding)}
        return sorted(found)
    return None


def _lead_to_blocks(module: torch.nn.Module, found: set[str]) -> bool:
    """Whether a list of blocks is somewhere in a module; the names on the way are added to `found`."""
    from torch.nn import ModuleList, Sequential

    leads = False
    for name, child in module.named_children():
        if isinstance(child, ModuleList | Sequential):
            leads = True
        elif _lead_to_blocks(child, found):
            found.add(name)
            leads = True
    return leads


def groups(module: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    """The groups of a view with hooks, each once, with the path of the module whose forward brings it in."""
    seen: set[int] = set()
    for path, part in module.named_modules():
        group = _group(part)
        if group is not None and id(group) not in seen:
            seen.add(id(group))
            yield path, group


def tensors(group: Any) -> Mapping[int, torch.Tensor]:
    """The parameters and buffers of a group, by identity."""
    found = [*group.parameters, *group.buffers]
    for part in group.modules:
        found += [*part.parameters(), *part.buffers()]
    return {id(tensor): tensor for tensor in found}


def resident(module: torch.nn.Module, granularity: str, blocks: int, *, stream: bool) -> int:
    """The most bytes of a component that are on the device at a time: a group with those around it, as diffusers makes
    them, and with a stream the next one too.

    Args:
        module: The component, without hooks; it is left as it is.
    """
    with planning_meter.building():
        # Hooks make cycles, which would keep the component's own tensors until someone looks for garbage.
        twin = _hollow(module)
        attach(twin, granularity, blocks, "cpu", host="meta")  # nothing moves until a call
    sizes = {path: _bytes(group) for path, group in groups(twin)}
    most = next_one = 0
    for path, size in sizes.items():
        around = sum(s for outer, s in sizes.items() if outer != path and _contains(outer, path))
        most = max(most, size + around)
        next_one = max(next_one, size) if path else next_one
    return most + (next_one if stream else 0)


def _hollow(module: torch.nn.Module) -> torch.nn.Module:
    """A copy of a module tree whose tensors have no memory; tied tensors stay tied."""
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
