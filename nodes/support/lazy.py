"""Imports on first use: node modules load in milliseconds; torch and diffusers load when a node runs.

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any


class _Lazy(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        value = getattr(importlib.import_module(self.__name__), name)
        setattr(self, name, value)
        return value


def lazy(name: str) -> Any:
    """A stand-in for the module `name` that imports it when an attribute is first read."""
    return _Lazy(name)
