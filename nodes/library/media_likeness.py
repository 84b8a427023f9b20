"""How alike two picture or video files are: the answer for `sgd report --compare`, `sgd diff` and `expect`."""

from __future__ import annotations

import math
import mimetypes
from collections.abc import Callable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...graph.contract.errors import NodeError, UnfitNetwork
from ...graph.contract.likeness import Likeness
from ..support import perceptual
from ..support.frame_errors import frame_errors
from ..support.image_reading import read_image
from ..support.lazy import lazy
from ..support.video_reading import frames_of

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

MOVING = ("image/gif", "image/apng")
"""Types of pictures that are read as clips."""


def likeness(
    before: Path, after: Path, progress: Callable[[int], None], weights: Path | None = None
) -> Likeness | None:
    """Compare the pixels of two files; None if one is neither a picture nor a clip, by the extension of its name.

    Args:
        before: The reference.
        after: The file to compare with it.
        progress: Called with the number of compared frames, after each.
        weights: The file with the weights of the network of LPIPS; None without LPIPS.

    Raises:
        NodeError: If a file cannot be read.
        UnfitNetwork: If `weights` cannot be read, or are of no known network.
    """
    if not (is_media(before) and is_media(after)):
        return None
    no_lpips = "" if weights is None else perceptual.unavailable() or ""
    distances: list[float] = []
    counts, sizes, notes = [0, 0], [(0, 0), (0, 0)], list[str]()
    found: list[list[float]] = []
    for frames in zip_longest(_frames(before, notes), _frames(after, notes)):
        for side, frame in enumerate(frames):
            if frame is not None:
                counts[side] += 1
                sizes[side] = sizes[side] if sizes[side] != (0, 0) else (frame.shape[1], frame.shape[0])
        one, other = frames
        if one is not None and other is not None and one.shape == other.shape:
            reference, made = (torch.from_numpy(frame) for frame in frames)
            found.append(torch.stack(frame_errors(made, reference)).tolist())
            if weights is not None and not no_lpips:
                no_lpips = perceptual.too_small(made) or ""
                distances += [] if no_lpips else [_distance(made, reference, weights)]
        progress(max(counts))
    form: Any = {"frames": tuple(counts), "sizes": tuple(sizes), "notes": tuple(dict.fromkeys(notes))}
    form["no_lpips"] = no_lpips
    if not found or sizes[0] != sizes[1]:
        return Likeness(**form)
    squared = [errors[0] for errors in found]
    similarity = [errors[2] for errors in found]
    worst = max(range(len(squared)), key=squared.__getitem__)
    has_ssim = not any(map(math.isnan, similarity))
    return Likeness(
        **form,
        psnr=_psnr(sum(squared) / len(squared)),
        worst_psnr=_psnr(squared[worst]),
        worst_frame=worst,
        ssim=sum(similarity) / len(similarity) if has_ssim else None,
        worst_ssim=min(similarity) if has_ssim else None,
        lpips=sum(distances) / len(distances) if distances else None,
        worst_lpips=max(distances, default=None),
    )


def _distance(frame: torch.Tensor, reference: torch.Tensor, weights: Path) -> float:
    try:
        return perceptual.distance(frame, reference, weights)
    except NodeError as error:
        raise UnfitNetwork(str(error), help=error.help) from error


def is_media(path: Path) -> bool:
    """Whether the name of a file has the extension of a picture or a clip."""
    return _type(path).startswith(("image/", "video/"))


def _type(path: Path) -> str:
    return mimetypes.guess_type(path.name)[0] or ""


def _frames(path: Path, notes: list[str]) -> Iterator[Any]:
    """Each frame as float32 [H, W, 3] in [0, 1], on white."""
    kind = _type(path)
    if kind in MOVING or kind.startswith("video/"):
        yield from frames_of(path)
        return
    read = read_image(path, background="white")
    notes += read.notes
    yield read.pixels


def _psnr(error: float) -> float:
    return -10 * math.log10(error) if error > 0 else math.inf
