"""Triton kernels, compiled for a card that is not there. A launch only compiles.

Triton compiles for every NVIDIA card with its own programs. It asks its driver only for the name of the target.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class CompiledKernel:
    """A kernel, made by one call.

    Attributes:
        module: The module of the function, in full.
        name: The name of the function.
        types: Triton's types of the arguments by name, such as `*bf16`, `i32`, `fp32` or `constexpr`.
        constants: Values that are compiled in, by name.
        warps: Warps of a program.
        shared: Bytes of shared memory of a program.
        columns: Columns of tensor memory of a program, which some cards have.
        key: Triton's key in the memory of a process: types, alignment of pointers, constants and options.
        hash: Triton's key on disk: the source, the types, the card and the version of Triton too.
        launched: Whether the call would have launched it. A call with `warmup` would not.
        parts: What the compiler made, by stage: `ttir`, `ttgir`, `llir`, `ptx`, and `cubin` as bytes.
    """

    module: str
    name: str
    types: Mapping[str, str]
    constants: Mapping[str, Any]
    warps: int
    shared: int
    columns: int
    key: str
    hash: str
    launched: bool
    parts: Mapping[str, Any]


class _Card:
    """Triton's driver of a card that is only a target.

    Args:
        capability: Compute capability without its dot, such as 86.
    """

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_device(self) -> int:
        # Triton keeps kernels and targets by this number. No card of this machine has it.
        return self.capability

    def get_current_stream(self, device: int | None = None) -> int:
        return 0

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.capability, 32)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


@contextmanager
def compiling(capability: int) -> Iterator[list[CompiledKernel]]:
    """Compile Triton kernels for a card instead of launching them.

    Args:
        capability: Compute capability without its dot, such as 86. Tensors may be on the CPU or on the meta device,
            where they count as aligned to 16 bytes.

    Yields:
        The kernels, one for each call so far. Calls of all threads count.
    """
    from triton.runtime import driver, jit

    made: list[CompiledKernel] = []
    own, before = jit.JITFunction.run, driver._active

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernel = own(self, *args, grid=grid, warmup=True, **options)
        made.append(_described(self, kernel, capability, launched=not warmup))
        return kernel

    driver.set_active(_Card(capability))
    jit.JITFunction.run = run
    try:
        yield made
    finally:
        jit.JITFunction.run = own
        driver._active = before


def _described(function: Any, kernel: Any, capability: int, *, launched: bool) -> CompiledKernel:
    kept = function.device_caches[capability][0]
    names = function.arg_names
    # A path names a constant: a position, or one inside an argument that is a tuple.
    paths = {path if isinstance(path, tuple) else (path,): value for path, value in kernel.src.constants.items()}
    return CompiledKernel(
        module=function.module,
        name=function.fn.__name__,
        types=dict(kernel.src.signature),
        constants={names[path[0]]: value for path, value in paths.items() if len(path) == 1},
        warps=kernel.metadata.num_warps,
        shared=kernel.metadata.shared,
        columns=getattr(kernel.metadata, "tmem_size", None) or 0,
        key=next(key for key, each in kept.items() if each is kernel),
        hash=kernel.hash,
        launched=launched,
        parts=kernel.asm,
    )


@dataclass(frozen=True)
class Call:
    """A call of a kernel that was noted.

    Attributes:
        function: Triton's function.
        arguments: Arguments by place.
        options: Arguments by name, and Triton's options.
    """

    function: Any
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]

    @property
    def constants(self) -> dict[str, Any]:
        """Values that are compiled in, by name."""
        given = dict(zip(self.function.arg_names, self.arguments, strict=False)) | dict(self.options)
        return {each.name: given[each.name] for each in self.function.params if each.is_constexpr}

    def compile(self) -> None:
        """Call the kernel again. Inside `compiling`, this compiles it."""
        self.function.run(*self.arguments, grid=(1,), warmup=False, **self.options)


@contextmanager
def noting() -> Iterator[list[Call]]:
    """Note calls of Triton kernels. The calls neither compile nor compute.

    Yields:
        The calls so far.
    """
    from triton.runtime import jit

    calls: list[Call] = []
    own = jit.JITFunction.run

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        calls.append(Call(self, args, options))

    jit.JITFunction.run = run
    try:
        yield calls
    finally:
        jit.JITFunction.run = own


def distinct(kernels: list[CompiledKernel]) -> list[CompiledKernel]:
    """The kernels of a list, each once, in the order of their first calls."""
    return list({(each.module, each.key, each.hash): each for each in kernels}.values())
