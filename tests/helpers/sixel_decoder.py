"""A decoder of sixels, after DEC's manual EK-VT3XX-TP-001, chapter 14. It knows nothing of sgd's encoder."""

from __future__ import annotations

import re

Colour = tuple[int, int, int]


def decoded(sequence: str) -> tuple[int, int, dict[tuple[int, int], Colour]]:
    """The width and height that the raster attributes name, and the colour of each pixel that was set, in percent.

    Raises:
        ValueError: If something is no sixel data.
    """
    match = re.fullmatch(r"\x1bP[\d;]*q(.*)\x1b\\", sequence, re.DOTALL)
    if match is None:
        raise ValueError("no device control string of sixels")
    data, place = match[1], 0
    width = height = x = y = 0
    registers: dict[int, Colour] = {}
    colour, pixels = -1, {}
    token = re.compile(r'"([\d;]*)|#([\d;]+)|!(\d+)([?-~])|([?-~])|(\$)|(-)')
    while place < len(data):
        found = token.match(data, place)
        if found is None:
            raise ValueError(f"{data[place]!r} is no sixel data")
        place = found.end()
        raster, introducer, count, repeated, single, carriage, _ = found.groups()
        if raster is not None:
            width, height = map(int, raster.split(";")[2:4])
        elif introducer is not None:
            number, *definition = map(int, introducer.split(";"))
            if definition:
                if definition[0] != 2 or len(definition) != 4 or not all(0 <= each <= 100 for each in definition[1:]):
                    raise ValueError(f"{introducer} defines no colour of red, green and blue")
                registers[number] = (definition[1], definition[2], definition[3])
            colour = number
        elif repeated or single:
            for _ in range(int(count or 1)):
                bits = ord(repeated or single) - 63
                for row in range(6):
                    if bits >> row & 1:
                        pixels[x, y + row] = registers[colour]
                x += 1
        elif carriage:
            x = 0
        else:
            x, y = 0, y + 6
    return width, height, pixels
