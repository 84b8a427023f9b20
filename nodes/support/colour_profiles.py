"""Colour profiles (ICC) of images: CMYK and LAB to RGB, and a note about a profile that is not sRGB."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .lazy import lazy

if TYPE_CHECKING:
    import numpy
    from PIL import Image
else:
    numpy, Image = lazy("numpy"), lazy("PIL.Image")

LIKE_SRGB = 4  # the largest difference, of 255, between a profile and sRGB that gives no note


def rgb_from_cmyk(image: Image.Image, path: Path) -> tuple[Image.Image, str | None]:
    """A CMYK image in RGB: by its colour profile, or else by the plain formula (1 - C)(1 - K), with a note."""
    profile = image.info.get("icc_profile")
    if profile:
        made = _converted(image, profile)
        if made is not None:
            return made, None
    missing = "its colour profile cannot be used" if profile else "it has no colour profile"
    note = f"{path} is CMYK, and {missing}: colours are converted by a plain formula, and may differ from print"
    return image.convert("RGB"), note


def lab_to_rgb(image: Image.Image) -> Image.Image:
    """An image in CIE L*a*b* as sRGB."""
    from PIL import ImageCms

    made = ImageCms.profileToProfile(
        image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    assert made is not None
    return made


def profile_note(image: Image.Image, path: Path) -> str | None:
    """A sentence about a profile whose colours differ from sRGB; the values of the file are used as they are."""
    profile = image.info.get("icc_profile")
    if not profile:
        return None
    steps = numpy.linspace(0, 255, 6).round().astype(numpy.uint8)
    if image.mode in ("1", "L", "LA", "La") or image.mode.startswith(("I", "F")):
        sample = Image.fromarray(steps[None])
    else:
        sample = Image.fromarray(numpy.stack(numpy.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3))
    made = _converted(sample, profile)
    if made is None:
        return f"the colour profile of {path} cannot be read; its values are used as they are"
    difference = numpy.abs(numpy.asarray(made).astype(int) - numpy.asarray(sample.convert("RGB"))).max()
    if difference <= LIKE_SRGB:
        return None
    name = _description(profile)
    return f"{path} has the colour profile “{name}”, which is not applied: colours look different in sRGB"


def _converted(image: Image.Image, profile: bytes) -> Image.Image | None:
    """The image in sRGB by a profile; None if the profile is broken or belongs to another mode."""
    from PIL import ImageCms

    try:
        return ImageCms.profileToProfile(image, io.BytesIO(profile), ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def _description(profile: bytes) -> str:
    from PIL import ImageCms

    found: Any = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile)))
    return str(found).strip() or "without a name"
