"""`Likeness`: how alike the pixels of two pictures or clips are, as a node library measures it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Likeness:
    """How alike two pictures or clips are. Frames are compared one by one, in order.

    Attributes:
        frames: Number of frames of each; a picture has one.
        sizes: Width and height in pixels of each.
        psnr: Peak signal-to-noise ratio in dB, from the mean squared error of all compared pixels. Infinity if they are
            equal. None if the sizes differ.
        ssim: Structural similarity, the mean of the compared frames. None if the sizes differ, or the frames are too
            small for it.
        worst_psnr: The PSNR of the frame that differs most; None like `psnr`.
        worst_frame: The number of that frame, from 0; None like `psnr`.
        worst_ssim: The lowest SSIM of a frame; None like `ssim`.
        notes: Sentences about content that was left out or changed when the files were read.
        lpips: Distance by the features of a network (Zhang et al. 2018), the mean of the compared frames; 0 if they are
            equal. None if it was not asked for, or cannot be computed.
        worst_lpips: The largest LPIPS of a frame; None like `lpips`.
        no_lpips: The reason why LPIPS, which was asked for, cannot be computed; empty otherwise.
    """

    frames: tuple[int, int]
    sizes: tuple[tuple[int, int], tuple[int, int]]
    psnr: float | None = None
    ssim: float | None = None
    worst_psnr: float | None = None
    worst_frame: int | None = None
    worst_ssim: float | None = None
    notes: tuple[str, ...] = ()
    lpips: float | None = None
    worst_lpips: float | None = None
    no_lpips: str = ""

    @property
    def equal(self) -> bool:
        """Whether size, number of frames and all pixels are equal."""
        return self.problem is None and self.psnr == math.inf

    @property
    def problem(self) -> str | None:
        """Why the numbers do not tell of the whole of both: another size or number of frames; None if they do."""
        if self.sizes[0] != self.sizes[1]:
            (width, height), (other_width, other_height) = self.sizes
            return f"{width}x{height} pixels against {other_width}x{other_height}"
        if self.frames[0] != self.frames[1]:
            return f"{self.frames[0]} frames against {self.frames[1]}"
        return None

    def json(self) -> dict[str, Any]:
        """The numbers as plain data. The PSNR of equal pixels is null, since JSON has no infinity; see `equal`."""
        return {
            "equal": self.equal,
            "problem": self.problem,
            "frames": list(self.frames),
            "sizes": [list(size) for size in self.sizes],
            "psnr": _finite(self.psnr),
            "ssim": self.ssim,
            "worst_psnr": _finite(self.worst_psnr),
            "worst_frame": self.worst_frame,
            "worst_ssim": self.worst_ssim,
            "lpips": self.lpips,
            "worst_lpips": self.worst_lpips,
            "no_lpips": self.no_lpips or None,
            "notes": list(self.notes),
        }

    def text(self) -> str:
        """One line: `PSNR 41.20 dB (worst 38.75 in frame 7), SSIM 0.9912 (worst 0.9834)`."""
        if self.equal:
            return "equal pixels"
        parts = [] if self.problem is None else [self.problem]
        many = min(self.frames) > 1
        if self.psnr is not None:
            worst = f" (worst {decibels(self.worst_psnr)} in frame {self.worst_frame})" if many else ""
            parts.append(f"PSNR {decibels(self.psnr)}{worst}")
        if self.ssim is not None:
            worst = f" (worst {self.worst_ssim:.4f})" if many and self.worst_ssim is not None else ""
            parts.append(f"SSIM {self.ssim:.4f}{worst}")
        if self.lpips is not None:
            worst = f" (worst {self.worst_lpips:.4f})" if many and self.worst_lpips is not None else ""
            parts.append(f"LPIPS {self.lpips:.4f}{worst}")
        elif self.no_lpips:
            parts.append(f"LPIPS unavailable: {self.no_lpips}")
        return ", ".join(parts)


def decibels(value: float | None) -> str:
    """A PSNR as text; `equal` for infinity."""
    if value is None:
        return "-"
    return "equal" if value == math.inf else f"{value:.2f} dB"


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value
