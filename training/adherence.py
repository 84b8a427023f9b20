"""Reads off a clip what it shows, so that a caller can compare that with what a prompt asked for.

`read` never sees a prompt. It takes frames [F, H, W, 3] in [0, 1] and names the colour, the shape,
the motion, the background colour and whether the background is a gradient, or says "unclear".
Lengths are fractions of the frame width inside, so that any frame size works.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from clips import COLORS, PALETTE, SHAPES, distance, shade
from numpy.typing import NDArray

Array = NDArray[np.float64]
UNCLEAR = "unclear"
ATTRIBUTES = ("color", "shape", "motion", "background")

_MIN_CONTRAST = 28.0  # palette units between the shape and the background
_MAX_COLOR_ERROR = 85.0  # palette units to the nearest palette colour
_MIN_OVERLAP = 0.80  # soft intersection over union with the best ideal shape
_MIN_TRAVEL = 0.12  # of the frame width
_MIN_GROWTH = 1.7  # ratio of the areas
_MIN_AREA = 0.003  # of the frame; smaller masks are no shape

_PALETTE = np.array([PALETTE[c] for c in COLORS], dtype=np.float64)
_SHADES = shade(torch.tensor(_PALETTE)).numpy()


@dataclass(frozen=True)
class Reading:
    """The content of a clip. `overlap` is how well the named shape fits, `area` its mean share of a frame."""

    color: str
    shape: str
    motion: str
    background: str
    gradient: bool
    overlap: float
    area: float

    def matches(self, **wanted: str | bool | None) -> dict[str, bool]:
        """Per attribute that is wanted (not None): does the clip show it?"""
        seen = asdict(self)
        return {name: seen[name] == value for name, value in wanted.items() if value is not None}


def _background(frames: Array) -> Array:
    """A plane per channel [H, W, 3], fitted to the border of the median frame; outliers are left out."""
    _, height, width, _ = frames.shape
    rows, columns = np.meshgrid((np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij")
    plane = np.stack([np.ones_like(rows), columns, rows], -1).reshape(-1, 3)
    border = np.zeros((height, width), bool)
    rim = max(2, width // 32)
    border[:rim] = border[-rim:] = True
    border[:, :rim] = border[:, -rim:] = True
    where = np.flatnonzero(border.ravel())
    pixels = np.median(frames, axis=0).reshape(-1, 3)
    used = where
    for _ in range(5):
        fit, *_ = np.linalg.lstsq(plane[used], pixels[used], rcond=None)
        error = np.abs(pixels[where] - plane[where] @ fit).sum(1)
        kept = where[error <= max(20.0, 1.5 * float(np.median(error)))]
        if len(kept) < len(where) // 4:
            break
        used = kept
    result: Array = (plane @ fit).reshape(height, width, 3).clip(0, 255)
    return result


def _name_background(plane: Array) -> tuple[str, bool]:
    """Nearest of the plain and the shaded palette backgrounds, in either direction of the shading."""
    left, right = plane[:, 0].mean(0), plane[:, -1].mean(0)
    top, bottom = plane[0].mean(0), plane[-1].mean(0)
    sideways = np.linalg.norm(right - left) >= np.linalg.norm(bottom - top)
    one, other = (left, right) if sideways else (top, bottom)

    def error(first: Array, second: Array) -> Array:
        return np.asarray(((one - first) ** 2).sum(1) + ((other - second) ** 2).sum(1))

    plain = error(_PALETTE, _PALETTE)
    shaded = np.minimum(error(_PALETTE, _SHADES), error(_SHADES, _PALETTE))
    best = int(np.minimum(plain, shaded).argmin())
    if min(plain[best], shaded[best]) > 2 * _MAX_COLOR_ERROR**2:
        return UNCLEAR, False
    return COLORS[best], bool(shaded[best] < plain[best])


def _name_color(color: Array) -> str:
    error = np.linalg.norm(_PALETTE - color, axis=1)
    return COLORS[int(error.argmin())] if error.min() <= _MAX_COLOR_ERROR else UNCLEAR


def _cover(frames: Array, plane: Array) -> tuple[Array, Array] | None:
    """(share of each pixel that the shape covers [F, H, W], colour of the shape), None if there is none."""
    difference = frames - plane
    contrast = np.linalg.norm(difference, axis=-1)
    peak = float(np.quantile(contrast.reshape(len(frames), -1).max(1), 0.5))
    if peak < _MIN_CONTRAST:
        return None
    color = np.median(frames[contrast > 0.7 * peak], axis=0)
    for _ in range(2):
        toward = color - plane
        cover = (difference * toward).sum(-1) / np.maximum((toward**2).sum(-1), 1.0)
        inside = (cover > 0.8) & (cover < 1.25)
        if inside.sum() < 20:
            return None
        color = np.median(frames[inside], axis=0)
    # Steeper than the measured edge: a slightly soft outline keeps its size but loses its fringe.
    return np.clip((cover - 0.5) * 1.6 + 0.5, 0, 1), color


def _overlaps(cover: Array) -> Array:
    """Soft intersection over union [F, 3] with ideal shapes of the same area and centre of mass."""
    frames, height, width = cover.shape
    row, column = np.arange(height) + 0.5, np.arange(width) + 0.5
    area = cover.sum((1, 2))
    x = (cover.sum(1) * column).sum(1) / area
    y = (cover.sum(2) * row).sum(1) / area
    result = np.zeros((frames, len(SHAPES)))
    # Radius of the shape with this area, and how far its centre of mass lies below its middle.
    for index, (per_area, below) in enumerate(((1 / np.pi, 0.0), (1 / 3.24, 0.0), (1 / 2, 1 / 3))):
        radius = np.sqrt(area * per_area)
        dx = torch.from_numpy(column[None, None, :] - x[:, None, None])
        dy = torch.from_numpy(row[None, :, None] - (y - below * radius)[:, None, None])
        signed = distance(torch.tensor(index), dx, dy, torch.from_numpy(radius)[:, None, None])
        ideal = (0.5 - signed).clamp(0, 1).numpy()
        result[:, index] = np.minimum(ideal, cover).sum((1, 2)) / np.maximum(ideal, cover).sum((1, 2))
    return result


def _name_motion(cover: Array, valid: NDArray[np.int64]) -> str:
    _, height, width = cover.shape
    area = cover[valid].sum((1, 2))
    x = (cover[valid].sum(1) * (np.arange(width) + 0.5)).sum(1) / area / width
    y = (cover[valid].sum(2) * (np.arange(height) + 0.5)).sum(1) / area / height
    few = max(1, min(3, len(valid) // 3))
    dx, dy = x[-few:].mean() - x[:few].mean(), y[-few:].mean() - y[:few].mean()
    if max(abs(dx), abs(dy)) >= _MIN_TRAVEL:
        if abs(dx) > abs(dy):
            return "right" if dx > 0 else "left"
        return "down" if dy > 0 else "up"
    growth = area[-few:].mean() / area[:few].mean()
    if growth >= _MIN_GROWTH:
        return "growing"
    return "shrinking" if growth <= 1 / _MIN_GROWTH else UNCLEAR


def read(frames: NDArray[np.floating] | torch.Tensor) -> Reading:
    """Name what the frames [F, H, W, 3] in [0, 1] show."""
    pixels = np.asarray(frames, dtype=np.float64) * 255
    if pixels.ndim != 4 or pixels.shape[-1] != 3:
        raise ValueError(f"expected frames [F, H, W, 3], got {tuple(pixels.shape)}")
    plane = _background(pixels)
    background, gradient = _name_background(plane)
    found = _cover(pixels, plane)
    if found is None:
        return Reading(UNCLEAR, UNCLEAR, UNCLEAR, background, gradient, 0.0, 0.0)
    cover, color = found
    share = cover.mean((1, 2))
    valid = np.flatnonzero(share > _MIN_AREA)
    if len(valid) < 0.6 * len(pixels):
        return Reading(UNCLEAR, UNCLEAR, UNCLEAR, background, gradient, 0.0, float(share.mean()))
    overlap = _overlaps(cover[valid]).mean(0)
    best = int(overlap.argmax())
    shape = SHAPES[best] if overlap[best] >= _MIN_OVERLAP else UNCLEAR
    motion = _name_motion(cover, valid)
    area = float(share[valid].mean())
    return Reading(_name_color(color), shape, motion, background, gradient, float(overlap[best]), area)
