"""The components that a session keeps in memory between its runs (`sgd.session`).

A component without a holder is idle. It stays in memory until its files change, memory is short, or the session ends.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from ....graph.contract.node import Run
from ...support import device_memory
from .idle_components import Stamp, stamp

if TYPE_CHECKING:
    from .weights import Weights

KEY = "sgd.models"
"""Name of the kept components in a session."""

LEAST_FREE = 0.4
"""Share of the device's memory that stays free for computing beside idle components. The number is a guess."""


class KeptWeights:
    """All components that a session keeps."""

    def __init__(self) -> None:
        self._all: dict[str, tuple[Stamp, Weights]] = {}

    def shared(self, made: Weights, run: Run) -> Weights:
        """The components that an earlier run of the session left for the same model, or `made` itself.

        Components whose configurations have changed are dropped.
        """
        repository = made.repository
        parts = {name: str(file.file or file.source) for name, file in made.checkpoints.items()}
        facts = [str(repository.folder.resolve()), repository.source, made.dtype, made.device, made.kind, made.variant]
        trusted = bool(run.options.get("trust_remote_code"))
        key = json.dumps([*facts, made.offload, sorted(made.dtypes.items()), sorted(parts.items()), trusted])
        files = [file for part in repository.components if (file := repository.config_file(part)) is not None]
        now = stamp([repository.folder / "model_index.json", *files])
        before, found = self._all.get(key, (now, made))
        if before != now:
            found.keep_in(None)
            found = made
        self._all[key] = now, found
        found.keep_in(self)
        found.early.clear()  # a failed run may have left some
        return found

    def has_room(self, size: int, run: Run) -> bool:
        """Whether a new component of this size leaves `LEAST_FREE` of the memory, beside the idle ones."""
        free = device_memory.free(run)
        return free is None or free - size >= LEAST_FREE * _total(run)

    def make_room(self, size: int, run: Run) -> None:
        """Drop idle components, the oldest first, until a new one of this size leaves `LEAST_FREE` of the memory."""
        while not self.has_room(size, run):
            if not self.drop_oldest(run.device):
                return

    def drop_oldest(self, device: str | None = None) -> bool:
        """Drop the component that has been idle for the longest time, on a device or on any. False if there is none."""
        idle = [
            (turn, weights, place)
            for _, weights in self._all.values()
            for place, turn in weights.idle.since.items()
            if device in (None, weights.device)
        ]
        if not idle:
            return False
        _, weights, (part, placed) = min(idle, key=lambda each: each[0])
        weights.drop(part, placed)
        return True

    def free(self) -> None:
        """Drop all idle components, and tensors that were read early for components that no run has acquired."""
        for _, weights in self._all.values():
            weights.early.clear()
        while self.drop_oldest():
            pass

    def close(self) -> None:
        """Drop all idle components, and keep none from now on."""
        for _, weights in self._all.values():
            weights.keep_in(None)
        self._all.clear()


def _total(run: Run) -> int:
    """All memory of the run's device in bytes."""
    if run.device.startswith("cuda"):
        import torch

        return int(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)
    with suppress(ValueError, OSError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 0
