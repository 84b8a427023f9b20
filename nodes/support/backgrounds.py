"""The colour behind transparent pixels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ...graph.contract.diagnostics import Diagnostic
from .lazy import lazy

if TYPE_CHECKING:
    import numpy
else:
    numpy = lazy("numpy")

WHITE = (255, 255, 255)


def colour(name: str | None) -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255, of `#rrggbb` or a CSS name; white for None.

    Raises:
        ValueError: If there is no such colour.
    """
    if name is None:
        return WHITE
    from PIL import ImageColor

    found = ImageColor.getrgb(name)
    if len(found) != 3:
        raise ValueError(f"{name} has an opacity")
    return found


def colour_problem(name: str | None) -> Iterator[Diagnostic]:
    """The problem of a parameter `background` that is not a colour."""
    try:
        colour(name)
    except ValueError:
        message = f"`{str(name)[:40]}` is not a colour"
        yield Diagnostic("bad-value", message, "background", help="write #rrggbb, or a CSS name such as black")


def composited(
    colours: numpy.ndarray[Any, Any],
    alpha: numpy.ndarray[Any, Any] | None,
    background: tuple[int, int, int],
    premultiplied: bool = False,
) -> numpy.ndarray[Any, Any]:
    """Colours [..., 3] with an opacity [..., 1], both float32 in [0, 1], over a background of 8-bit values."""
    if alpha is None:
        return colours
    behind = numpy.asarray(background, dtype=numpy.float32) / 255
    return numpy.clip((colours if premultiplied else colours * alpha) + behind * (1 - alpha), 0, 1)
