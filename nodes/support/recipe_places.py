"""The place of a recipe in each kind of file that nodes write.

| kind | place |
| --- | --- |
| PNG | an `iTXt` chunk `sgd` |
| JPEG, WebP | `UserComment` of the EXIF data |
| GIF | the comment |
| MP4, MOV, MKV, WebM | the tag `sgd` |
| safetensors | `sgd` of `__metadata__` |
"""

from __future__ import annotations

from typing import Any

from ...graph.contract.node import Run

KEY = "sgd"
EXIF_IFD, USER_COMMENT = 0x8769, 0x9286
ASCII = b"ASCII\0\0\0"
"""The name of the encoding before the text of a `UserComment` (Exif 2.3, 4.6.5)."""

LONGEST = {"JPEG": 60_000}
"""Most characters: a segment of a JPEG file holds 65,533 bytes."""


def recipe_options(format: str, recipe: str | None, run: Run) -> dict[str, Any]:
    """Options for Pillow's `save` that put a recipe into a picture.

    Args:
        format: Pillow's name of the format.
        recipe: The text, in ASCII; None for none.
        run: Receives a warning if the format cannot hold a text of this length.
    """
    if recipe is None:
        return {}
    if len(recipe) > LONGEST.get(format, len(recipe)):
        run.warn(
            f"the recipe of {len(recipe) // 1000} kB does not fit into a {format} file, which holds "
            f"{LONGEST[format] // 1000} kB; it stands in run.json alone: save a .png to have it in the picture"
        )
        return {}
    if format == "PNG":
        from PIL.PngImagePlugin import PngInfo

        chunks = PngInfo()
        chunks.add_itxt(KEY, recipe)
        return {"pnginfo": chunks}
    if format == "GIF":
        return {"comment": recipe.encode("ascii")}
    from PIL import Image

    exif = Image.Exif()
    exif.get_ifd(EXIF_IFD)[USER_COMMENT] = ASCII + recipe.encode("ascii")
    return {"exif": exif}
