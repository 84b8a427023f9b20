"""Pictures as sixels, the graphics of DEC's VT340, and the question whether a terminal shows them.

A band is six rows of pixels. A character from `?` on holds six of them, one above the other, that have the colour in
use. Sources: the manual EK-VT3XX-TP-001 of DEC, chapter 14; XTerm Control Sequences, "Send Device Attributes".
"""

from __future__ import annotations

import os
import re
import select
from contextlib import suppress
from io import BytesIO
from time import monotonic

COLOURS = 256
BAND = 6
QUESTION = b"\x1b[c"
ANSWER = re.compile(rb"\x1b\[\?([\d;]*)c")
SIXELS = b"4"
"""The attribute of a terminal that shows sixels."""
PATIENCE = 1.0
"""Seconds to wait for the answer. All terminals of today answer at once; a slow line takes a while."""


def sixel(png: bytes) -> str:
    """A PNG file as a sequence of sixels, with at most 256 colours of its own."""
    from PIL import Image

    with Image.open(BytesIO(png)) as file:
        image = file.convert("RGB").quantize(COLOURS)
    width, height = image.size
    palette = image.getpalette("RGB") or []
    pixels = image.tobytes()
    used = sorted(set(pixels))
    parts = [f'\x1bPq"1;1;{width};{height}']
    for colour in used:
        red, green, blue = (round(each * 100 / 255) for each in palette[3 * colour : 3 * colour + 3])
        parts.append(f"#{colour};2;{red};{green};{blue}")
    for top in range(0, height, BAND):
        rows = [pixels[y * width : (y + 1) * width] for y in range(top, min(top + BAND, height))]
        lines: dict[int, bytearray] = {}
        for bit, row in enumerate(rows):
            for x, colour in enumerate(row):
                lines.setdefault(colour, bytearray(b"?" * width))[x] += 1 << bit
        parts.append("$".join(f"#{colour}{_runs(line)}" for colour, line in sorted(lines.items())) + "-")
    return "".join(parts) + "\x1b\\"


def _runs(line: bytearray) -> str:
    """A line with `!12?` for twelve equal characters, and without empty ones at its end."""
    text = line.decode("ascii").rstrip("?")
    return re.sub(r"(.)\1{3,}", lambda found: f"!{len(found[0])}{found[1]}", text)


def terminal_shows_sixels(patience: float = PATIENCE) -> bool:
    """Ask the terminal of this process for its attributes. False if there is none, or no answer in `patience` seconds.

    Keys that a person presses meanwhile are lost. A process in the background does not ask.
    """
    try:
        import termios

        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except (ImportError, OSError):
        return False
    try:
        if os.tcgetpgrp(terminal) != os.getpgrp():
            return False
        before = termios.tcgetattr(terminal)
        silent = [*before]
        silent[3] &= ~(termios.ICANON | termios.ECHO)
        termios.tcsetattr(terminal, termios.TCSANOW, silent)
        try:
            os.write(terminal, QUESTION)
            return SIXELS in _answer(terminal, patience)
        finally:
            with suppress(termios.error):
                termios.tcsetattr(terminal, termios.TCSANOW, before)
    except (OSError, termios.error):
        return False
    finally:
        os.close(terminal)


def _answer(terminal: int, patience: float) -> list[bytes]:
    """The attributes that a terminal names; none if it says nothing in time."""
    said, until = b"", monotonic() + patience
    while (left := until - monotonic()) > 0 and select.select([terminal], [], [], left)[0]:
        said += os.read(terminal, 1024)
        found = ANSWER.search(said)
        if found is not None:
            return found[1].split(b";")
    return []
