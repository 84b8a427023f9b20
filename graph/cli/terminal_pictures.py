"""Pictures in terminals that show them: the escape sequences of kitty and iTerm2.

A terminal is known by variables that it sets. It is not asked, since a terminal that does not know the question may
never answer. Multiplexers (tmux, screen) pass no pictures on, so there are none in them.

Sources: sw.kovidgoyal.net/kitty/graphics-protocol, iterm2.com/documentation-images.html.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping

CHUNK = 4096
"""Most characters of the data of one sequence of kitty's protocol."""


def kitty(png: bytes) -> str:
    """A PNG file as sequences of kitty's protocol. `q=2`: the terminal answers nothing."""
    data = b64encode(png).decode()
    parts = [data[start : start + CHUNK] for start in range(0, len(data), CHUNK)]
    found = []
    for number, part in enumerate(parts):
        keys = "a=T,f=100,q=2," if not number else ""
        found.append(f"\x1b_G{keys}m={int(number < len(parts) - 1)};{part}\x1b\\")
    return "".join(found)


def iterm(png: bytes) -> str:
    """A PNG file as the sequence of iTerm2."""
    return f"\x1b]1337;File=inline=1;size={len(png)};preserveAspectRatio=1:{b64encode(png).decode()}\x07"


def protocol(environment: Mapping[str, str]) -> Callable[[bytes], str] | None:
    """The protocol of the terminal with these variables; None if it shows no pictures, or may not."""
    term, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    if "TMUX" in environment or "STY" in environment or term.startswith(("screen", "tmux", "dumb")):
        return None
    if term == "xterm-kitty" or environment.get("KITTY_WINDOW_ID") or program == "ghostty":
        return kitty
    if program in ("iTerm.app", "WezTerm"):
        return iterm
    return None
