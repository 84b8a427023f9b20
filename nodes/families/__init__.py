"""Model families, one module for each family. A family is found by its name, or by the pipeline class of a repository.

A family matches one pipeline of diffusers. Node types, which work for every family, belong to `nodes/`.
"""

from __future__ import annotations

from .base import Configs, Family
from .flux import FLUX
from .hunyuan_video import HUNYUAN_VIDEO
from .qwen_image import QWEN_IMAGE
from .wan import WAN
from .z_image import Z_IMAGE

FAMILIES: dict[str, Family] = {family.name: family for family in (HUNYUAN_VIDEO, WAN, Z_IMAGE, FLUX, QWEN_IMAGE)}

__all__ = ["FAMILIES", "Configs", "Family", "by_name", "by_pipeline"]


def by_name(name: str | None) -> Family | None:
    """The family with this name; None if there is none."""
    return FAMILIES.get(name) if name is not None else None


def by_pipeline(class_name: str) -> Family | None:
    """The family whose repositories name this diffusers pipeline class (`_class_name` in model_index.json)."""
    return next((family for family in FAMILIES.values() if class_name in family.pipelines), None)
