"""TeaCache's published polynomials, as data.

All polynomials come from the repository ali-vilab/TeaCache (Apache-2.0) at commit 7c10efc; each entry has its file and
line. The thresholds come from the READMEs of that repository. Its authors fitted the polynomials with `numpy.polyfit`,
order 4, over the steps of 70 prompts of T2V-CompBench (issues 2 and 20 there). A polynomial is not reliable outside of
the range of changes that it was fitted on. Several are negative for plausible changes (Wan 2.1 14B, time embedding,
changes below 0.13).

No polynomial is published for Wan 2.2's experts, Z-Image, Qwen-Image or FLUX.1-schnell. The numbers that other programs
use for the first three come from other models, or were chosen by hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .checkpoints import Configs, checkpoints

Signal = Literal["modulated", "time", "time_projection"]


@dataclass(frozen=True)
class Entry:
    """One published polynomial.

    Attributes:
        model: The checkpoint that it was fitted on.
        signal: The tensor that is compared from step to step: `modulated`, the image tokens as the first norm of the
            first block modulates them; `time`, the time embedding; `time_projection`, its six-fold projection, which
            TeaCache's own code uses with `use_ret_steps`.
        coefficients: Coefficients, highest order first. The polynomial of the signal's relative L1 change is the
            expected relative L1 change of the output.
        thresholds: The published thresholds of the accumulated change for these coefficients, the smallest first.
        first: Number of steps that are computed at the start.
        last: Number of steps that are computed at the end.
        pixels: Width times height of the model's resolution, if models differ only in the resolution; else None.
        source: File and line in the TeaCache repository.
    """

    model: str
    signal: Signal
    coefficients: tuple[float, ...]
    thresholds: tuple[float, ...]
    first: int
    last: int
    pixels: int | None
    source: str


_480P, _720P = 832 * 480, 1280 * 720
_WAN = "TeaCache4Wan2.1/teacache_generate.py"

ENTRIES = (
    Entry(
        "HunyuanVideo",
        "modulated",
        (7.33226126e02, -4.01131952e02, 6.75869174e01, -3.14987800e00, 9.61237896e-02),
        (0.1, 0.15),
        1,
        1,
        None,
        "TeaCache4HunyuanVideo/teacache_sample_video.py:102",
    ),
    Entry(
        "FLUX.1-dev",
        "modulated",
        (4.98651651e02, -2.83781631e02, 5.58554382e01, -3.82021401e00, 2.64230861e-01),
        (0.25, 0.4, 0.6, 0.8),
        1,
        1,
        None,
        "TeaCache4FLUX/teacache_flux.py:113",
    ),
    Entry(
        "Wan2.1-T2V-1.3B",
        "time",
        (2.39676752e03, -1.31110545e03, 2.01331979e02, -8.29855975e00, 1.37887774e-01),
        (0.05, 0.07, 0.08),
        1,
        1,
        None,
        f"{_WAN}:890",
    ),
    Entry(
        "Wan2.1-T2V-1.3B",
        "time_projection",
        (-5.21862437e04, 9.23041404e03, -5.28275948e02, 1.36987616e01, -4.99875664e-02),
        (0.05, 0.1),
        5,
        0,
        None,
        f"{_WAN}:883",
    ),
    Entry(
        "Wan2.1-T2V-14B",
        "time",
        (-5784.54975374, 5449.50911966, -1811.16591783, 256.27178429, -13.02252404),
        (0.14, 0.15, 0.2),
        1,
        1,
        None,
        f"{_WAN}:892",
    ),
    Entry(
        "Wan2.1-T2V-14B",
        "time_projection",
        (-3.03318725e05, 4.90537029e04, -2.65530556e03, 5.87365115e01, -3.15583525e-01),
        (0.1, 0.2),
        5,
        0,
        None,
        f"{_WAN}:885",
    ),
    Entry(
        "Wan2.1-I2V-14B-480P",
        "time",
        (-3.02331670e02, 2.23948934e02, -5.25463970e01, 5.87348440e00, -2.01973289e-01),
        (0.13, 0.19, 0.26),
        1,
        1,
        _480P,
        f"{_WAN}:974",
    ),
    Entry(
        "Wan2.1-I2V-14B-480P",
        "time_projection",
        (2.57151496e05, -3.54229917e04, 1.40286849e03, -1.35890334e01, 1.32517977e-01),
        (0.2, 0.3),
        5,
        0,
        _480P,
        f"{_WAN}:967",
    ),
    Entry(
        "Wan2.1-I2V-14B-720P",
        "time",
        (-114.36346466, 65.26524496, -18.82220707, 4.91518089, -0.23412683),
        (0.18, 0.2, 0.3),
        1,
        1,
        _720P,
        f"{_WAN}:976",
    ),
    Entry(
        "Wan2.1-I2V-14B-720P",
        "time_projection",
        (8.10705460e03, 2.13393892e03, -3.72934672e02, 1.66203073e01, -4.17769401e-02),
        (0.2, 0.3),
        5,
        0,
        _720P,
        f"{_WAN}:969",
    ),
)


def published(family: str, configs: Configs, source: str | None = None) -> tuple[Entry, ...]:
    """Find the polynomials published for a model. `checkpoints.py` identifies the model.

    Args:
        family: Name of the family.
        configs: The model's configurations: those of components by name, and "model_index".
        source: Folder or repository of the model.

    Returns:
        The polynomials; for Wan, one for each signal. If sgd cannot tell which of Wan 2.1's two image-to-video models
        it is, the result has the polynomials for both resolutions (`checkpoints.by_size` chooses). An empty tuple if
        nothing was published.
    """
    labels = checkpoints(family, configs, source)
    return tuple(entry for entry in ENTRIES if entry.model in labels)
