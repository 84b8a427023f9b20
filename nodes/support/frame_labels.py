"""Labels as pixels, drawn with the font that comes with Pillow."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ...graph.contract.suggestions import plain_letters
from .lazy import lazy

if TYPE_CHECKING:
    import numpy
    import torch
else:
    numpy, torch = lazy("numpy"), lazy("torch")

SMALLEST, LARGEST = 14, 48
"""Sizes of the font in pixels: letters of 14 pixels can be read, and more than 48 only take room."""

ABSENT = "\U0010fffd"
"""A character that no font has."""


def strip_height(height: int) -> int:
    """The height of a label for a picture of this height, in pixels."""
    return size_for(height) * 3 // 2


def size_for(height: int) -> int:
    """The size of the font for a picture of this height: a sixteenth of it, within the limits."""
    return max(SMALLEST, min(LARGEST, height // 16))


def drawn(text: str, width: int, height: int) -> torch.Tensor:
    """A label in black on white, centred: float32 in [0, 1], [`strip_height(height)`, `width`, 3].

    Text that is too wide is cut and ends in `…`. A letter with an accent that the font lacks is drawn without it.

    Args:
        text: The label. Line breaks and control characters become spaces.
        width: Width of the label in pixels.
        height: Height of the picture that it belongs to.
    """
    from PIL import Image, ImageDraw

    font = _font(size_for(height))
    text = _known(" ".join("".join(c if c.isprintable() else " " for c in text).split()))
    room = width - size_for(height) // 2
    if font.getlength(text) > room:
        while text and font.getlength(f"{text}…") > room:
            text = text[:-1]
        text = f"{text.rstrip()}…"
    image = Image.new("L", (width, strip_height(height)), 255)
    ImageDraw.Draw(image).text((width / 2, strip_height(height) / 2), text, fill=0, font=font, anchor="mm")
    grey = torch.from_numpy(numpy.asarray(image, dtype=numpy.float32) / 255)
    return grey[:, :, None].expand(-1, -1, 3)


def undrawable(text: str) -> str:
    """The characters of a text that cannot be drawn: boxes stand for them."""
    return "".join(dict.fromkeys(c for c in _known(text) if c.isprintable() and not c.isspace() and not _has(c)))


def _known(text: str) -> str:
    """Text whose accented letters have no accents where the font lacks them."""
    return "".join(c if _has(c) else plain_letters(c) or c for c in text)


@lru_cache(maxsize=4096)
def _has(character: str) -> bool:
    """Whether the font has a character: its picture is not the box of absent ones."""
    font = _font(SMALLEST)
    return bytes(font.getmask(character)) != bytes(font.getmask(ABSENT))


@lru_cache(maxsize=4)
def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)
