"""Sixels: read back by a decoder of the manual's rules; the question to the terminal, in a pseudo terminal."""

from __future__ import annotations

import io
import os
import pty
import sys
from typing import Any

import pytest
from helpers.sixel_decoder import decoded
from PIL import Image
from sgd.graph.cli.sixel import sixel


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_few_colours_come_back_exactly_at_any_size() -> None:
    colours = [(0, 0, 0), (255, 0, 0), (0, 255, 0), (51, 102, 204), (255, 255, 255)]
    for width, height in ((1, 1), (7, 6), (13, 20), (100, 5)):
        image = Image.new("RGB", (width, height))
        for x in range(width):
            for y in range(height):
                image.putpixel((x, y), colours[(x * x + 3 * y) % 5 if width < 50 else y % 5])
        found_width, found_height, pixels = decoded(sixel(png(image)))
        assert (found_width, found_height) == (width, height)
        expected = {}
        for x in range(width):
            for y in range(height):
                colour: Any = image.getpixel((x, y))
                expected[x, y] = tuple(round(each * 100 / 255) for each in colour)
        assert pixels == expected


def test_many_colours_come_back_nearly_and_each_pixel_is_set_once() -> None:
    image = Image.linear_gradient("L").resize((90, 50))
    image = Image.merge("RGB", (image, image.rotate(180), image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)))
    text = sixel(png(image))
    _, _, pixels = decoded(text)
    assert set(pixels) == {(x, y) for x in range(90) for y in range(50)}
    worst = 0.0
    for place, colour in pixels.items():
        of: Any = image.getpixel(place)
        worst = max(worst, *(abs(share * 2.55 - number) for share, number in zip(colour, of, strict=True)))
    assert worst < 24
    assert all(character in "\x1b" or " " <= character < "\x7f" for character in text)


@pytest.mark.parametrize(
    ("answer", "shows"),
    [
        (b"\x1b[?62;4;22c", "True"),
        (b"\x1b[?1;2;4c", "True"),
        (b"\x1b[?64;1;2;22c", "False"),
        (b"\x1b[?6c", "False"),
        (b"x\x1b[?62;4c", "True"),
        (b"", "False"),
    ],
)
def test_a_terminal_is_asked_and_its_settings_stay(answer: bytes, shows: str) -> None:
    code = (
        "import sys, termios; sys.path[:0] = sys.argv[1:]; from sgd.graph.cli.sixel import terminal_shows_sixels\n"
        "before = termios.tcgetattr(0); found = terminal_shows_sixels(3.0 if sys.argv[1] else 0.2)\n"
        "print(found, termios.tcgetattr(0) == before)"
    )
    patience = ["y"] if answer else [""]
    child, terminal = pty.fork()
    if not child:
        os.execv(sys.executable, [sys.executable, "-c", code, *patience])
    said = b""
    while True:
        try:
            part = os.read(terminal, 1024)
        except OSError:
            break
        said += part
        if b"\x1b[c" in part and answer:
            os.write(terminal, answer)
    os.close(terminal)
    assert os.waitpid(child, 0)[1] == 0
    assert f"{shows} True" in said.decode()
