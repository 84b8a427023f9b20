"""A plugin of pytest that makes every import of torch fail: `PYTHONPATH=tests pytest -p helpers.without_torch`.

`make fast` uses it, so its list of tests can hold only tests without torch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


class Absent:
    """Finds torch, so `find_spec` succeeds, but refuses to load it."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name.split(".")[0] == "torch" else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        raise ImportError("a test of `make fast` imports torch")

    def exec_module(self, module: ModuleType) -> None:
        raise AssertionError


sys.meta_path.insert(0, Absent())  # type: ignore[arg-type]
