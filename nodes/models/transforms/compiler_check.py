"""Whether this machine has the compiler that torch.compile needs. Torch-free.

A plan for another card takes Triton as installed.
"""

from __future__ import annotations

import importlib.util
import os
import shutil

from ....graph.contract.cards import planned_card
from ....graph.contract.diagnostics import Diagnostic


def lacking(on_gpu: bool) -> Diagnostic | None:
    """A diagnostic if torch.compile needs a compiler that this machine does not have; else None."""
    if on_gpu:
        if planned_card() is None and importlib.util.find_spec("triton") is None:
            message = "compiling for a GPU needs the package triton, which is not installed"
            return Diagnostic("unavailable", message, "model", help="pip install triton")
        return None
    compilers = (os.environ.get("CXX", ""), "g++", "clang++")
    if any(shutil.which(name) for name in compilers if name):
        return None
    message = "compiling for a CPU needs a C++ compiler, and this machine has none"
    return Diagnostic("unavailable", message, "model", help="install g++ or clang++, or name a compiler in CXX")
