"""Frames that leave the GPU while the next ones are decoded."""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from torch import Tensor


class LeavingFrames:
    """Writes frames into memory of the host, or of their device.

    Frames that leave a GPU go through pinned memory, on a stream of their own.

    Args:
        out: Receives the frames, [F, ...].
    """

    def __init__(self, out: Tensor) -> None:
        self.out = out
        self._stream: Any = None
        self._spare: list[Tensor] = []
        self._waiting: deque[tuple[int, int, Tensor, Any]] = deque()

    def put(self, start: int, frames: Tensor) -> None:
        """Write frames from the frame `start` on. On a GPU, their copy may still run when this returns."""
        if not frames.is_cuda or self.out.is_cuda:
            self.out[start : start + len(frames)] = frames
            return
        if self._stream is None:
            self._stream = torch.cuda.Stream(frames.device)
        pinned = self._pinned(frames)
        self._stream.wait_stream(torch.cuda.current_stream(frames.device))
        with torch.cuda.stream(self._stream):
            pinned[: len(frames)].copy_(frames, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()
        frames.record_stream(self._stream)  # its memory is free only after the copy
        self._waiting.append((start, len(frames), pinned, copied))
        if len(self._waiting) > 1:  # the device has work meanwhile
            self._take()

    def end(self) -> None:
        """Wait until all frames are written."""
        while self._waiting:
            self._take()

    def _take(self) -> None:
        start, count, pinned, copied = self._waiting.popleft()
        copied.synchronize()
        self.out[start : start + count] = pinned[:count]
        self._spare.append(pinned)

    def _pinned(self, frames: Tensor) -> Tensor:
        for number, spare in enumerate(self._spare):
            if len(spare) >= len(frames):
                return self._spare.pop(number)
        return torch.empty(frames.shape, dtype=frames.dtype, pin_memory=True)
