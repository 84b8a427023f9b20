"""Notes in Triton's cache that name the components whose kernels it holds. A later process then builds none in advance.

The notes lie beside the kernels, so both are removed together. A kernel is built at its first launch if a note is out
of date, and nothing else is lost.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..attention.packages import installed
from ..memory.transform_order import Transform

if TYPE_CHECKING:
    import torch

CACHE = "TRITON_CACHE_DIR"
"""The variable that names the place of Triton's cache. The command `sgd` sets it."""

FOLDER = "sgd-built"


def note_of(
    class_name: str, config: Mapping[str, Any], dtype: str, transforms: tuple[Transform, ...], device: torch.device
) -> Path | None:
    """The path of the note for a component; None if the place of Triton's cache is not known.

    Args:
        class_name: The class of the component.
        config: Its configuration.
        dtype: Name of its dtype.
        transforms: The transforms on which its kernels depend.
        device: The GPU.
    """
    import torch

    place = os.environ.get(CACHE)
    if not place:
        return None
    versions = [installed(package, package) for package in ("sgd", "torch", "triton", "diffusers")]
    card = torch.cuda.get_device_capability(device), torch.cuda.get_device_name(device)
    facts = class_name, sorted(config.items()), dtype, list(map(repr, transforms)), card, versions
    text = json.dumps(facts, default=str)
    return Path(place) / FOLDER / hashlib.sha256(text.encode()).hexdigest()[:32]


def write(note: Path) -> None:
    """Make a note. Nothing happens if the cache cannot be written."""
    with suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        note.touch()
