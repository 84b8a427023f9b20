"""Pictures in terminals that show them: the escape sequences of kitty and iTerm2, and sixels.

The terminals of the first two are known by variables that they set. Any other is asked whether it shows sixels. The
multiplexers tmux and screen hide the terminal's own pictures, and answer for themselves.

Sources: sw.kovidgoyal.net/kitty/graphics-protocol, iterm2.com/documentation-images.html.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping

from .sixel import sixel, terminal_shows_sixels

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


def protocol(
    environment: Mapping[str, str], asked: Callable[[], bool] = terminal_shows_sixels
) -> Callable[[bytes], str] | None:
    """The protocol of the terminal with these variables; None if it shows no pictures.

    Args:
        environment: The variables.
        asked: Asks the terminal whether it shows sixels.
    """
    term, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    if term in ("", "dumb"):
        return None
    if not ("TMUX" in environment or "STY" in environment or term.startswith(("screen", "tmux"))):
        if term == "xterm-kitty" or environment.get("KITTY_WINDOW_ID") or program == "ghostty":
            return kitty
        if program in ("iTerm.app", "WezTerm"):
            return iterm
    return sixel if asked() else None
