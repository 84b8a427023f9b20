"""The shift of noise levels that depends on the length of the transformer's sequence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def dynamic_shift(scheduler: Mapping[str, Any], tokens: int) -> float:
    """The exponent `mu` of a shift that grows linearly with the length of the sequence.

    The formula and its defaults come from `calculate_shift` in diffusers' pipelines/flux/pipeline_flux.py.
    """
    first, last = scheduler.get("base_image_seq_len", 256), scheduler.get("max_image_seq_len", 4096)
    low, high = scheduler.get("base_shift", 0.5), scheduler.get("max_shift", 1.15)
    slope = (high - low) / (last - first)
    return tokens * slope + (low - slope * first)
