"""Reads the recipe in a picture, a clip or a file of latents. Torch-free; nothing is decoded but headers."""

from __future__ import annotations

from pathlib import Path

from ...graph.contract.errors import NodeError
from ...graph.contract.terminal_text import printable
from ..support.input_files import shown
from ..support.recipe_places import ASCII, EXIF_IFD, KEY, USER_COMMENT
from ..support.tensor_header import read_header

LONGEST = 8 << 20
PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a")
MATROSKA = b"\x1a\x45\xdf\xa3"
START = '{"recipe"'
DAMAGED = "the copy is damaged: take another one, or the run.json of the run"


def recipe_text(path: Path) -> str | None:
    """The recipe in a file; empty if the file is of a kind that can carry one, but has none; None for other files.

    Raises:
        NodeError: If the file is damaged, or its recipe is too long.
    """
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except (OSError, ValueError):
        return None  # the caller says why it cannot be read
    if start.startswith(PICTURES) or (start.startswith(b"RIFF") and start[8:12] == b"WEBP"):
        text = _of_picture(path)
    elif start[4:8] == b"ftyp" or start.startswith(MATROSKA):
        text = _of_clip(path, "matroska" if start.startswith(MATROSKA) else "mov")
    elif path.suffix == ".safetensors":
        text = read_header(path).get("__metadata__", {}).get(KEY, "")
    else:
        return None
    if len(text) > LONGEST:
        raise NodeError(f"the text `{KEY}` of {shown(path)} is longer than {LONGEST >> 20} MiB", help=DAMAGED)
    return text


def _of_picture(path: Path) -> str:
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG", "JPEG", "WEBP", "GIF")) as opened:
            if opened.format == "PNG":
                found = opened.info.get(KEY, "")
                return str(found) if isinstance(found, str) else ""
            if opened.format == "GIF":
                return _text(opened.info.get("comment", b""))
            comment = opened.getexif().get_ifd(EXIF_IFD).get(USER_COMMENT, b"")
            return _text(comment[len(ASCII) :] if isinstance(comment, bytes) else b"")
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plugins raise errors of many classes for broken files
        raise NodeError(f"{shown(path)} cannot be read as a picture: {_reason(error)}", help=DAMAGED) from None


def _of_clip(path: Path, container: str) -> str:
    import av

    try:
        # FFmpeg takes a whole path for a file, never for an address, and opens nothing that the file names.
        options = {"protocol_whitelist": "file"}
        with av.open(str(path.absolute()), format=container, metadata_errors="replace", options=options) as opened:
            return next((text for name, text in opened.metadata.items() if name.lower() == KEY), "")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise NodeError(f"{shown(path)} cannot be read as a clip: {_reason(error)}", help=DAMAGED) from None


def _text(data: object) -> str:
    """The recipe in a comment; empty if it is the comment of another program."""
    if not isinstance(data, bytes):
        return ""
    text = data.decode("utf-8", errors="replace").strip("\0 ")
    return text if text.startswith(START) else ""


def _reason(error: BaseException) -> str:
    return printable(" ".join(str(error).split())[:200]) or type(error).__name__
