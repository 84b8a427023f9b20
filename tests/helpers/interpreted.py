"""Modules of Triton kernels, to be run on a GPU if there is one, else in Triton's interpreter on the CPU."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TypeVar

import pytest
import torch

Test = TypeVar("Test", bound=Callable[..., None])


def needs_triton(test: Test) -> Test:
    """Mark a test that runs kernels, and skip it without Triton. `.ci/run` installs Triton for tests with this mark."""
    skip = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
    return pytest.mark.triton(skip(test))


@contextmanager
def kernel_modules(monkeypatch, *names: str) -> Iterator[list[ModuleType]]:
    """The modules of kernels of decoders, of these names. Inside `with`, they are the ones that imports find.

    Triton's own functions are interpreted only if Triton was imported for it. So its modules are imported anew, but for
    those in C, and the earlier ones come back at the end.
    """
    full = [f"sgd.nodes.models.decoders.{name}" for name in names]
    if torch.cuda.is_available():
        yield [importlib.import_module(name) for name in full]
        return
    _remember_types()
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if name in full or _of_triton(name)}
    try:
        yield [importlib.import_module(name) for name in full]
    finally:
        for name in list(sys.modules):
            if name in full or _of_triton(name):
                del sys.modules[name]
        sys.modules.update(before)
        package = importlib.import_module("sgd.nodes.models.decoders")
        for name in names:  # `from . import name` asks the package first
            vars(package).pop(name, None)
            if (module := before.get(f"{package.__name__}.{name}")) is not None:
                setattr(package, name, module)


def _remember_types() -> None:
    """Let Triton's C extension take the types of arguments from the modules that come back at the end.

    The extension is imported only once, and takes the types at its first call. `compiled_kernels` needs them.
    """
    from triton.runtime.jit import mangle_type

    mangle_type(0)


def _of_triton(name: str) -> bool:
    return name.split(".")[0] == "triton" and not name.startswith("triton._C")
