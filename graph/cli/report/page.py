"""The page around the sections: one HTML file that asks for nothing else, with its styles and scripts inside.

Every text of a user goes through the template engine, which escapes it. A content security policy allows only the
scripts and styles that stand here, by their hashes, and no connection at all.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ...contract.terminal_text import printable
from ...contract.text_tables import count, seconds

HERE = Path(__file__).parent
STYLES = ("uplot.min.css", "report.css", "comparison.css", "sweep.css")
SCRIPTS = (
    "uplot.min.js",
    "shell.js",
    "tables.js",
    "drawing.js",
    "timeline.js",
    "charts.js",
    "comparison.js",
    "sweep.js",
)


@dataclass(frozen=True)
class Section:
    """A part of a panel: a heading and what stands below it.

    Attributes:
        id: A word in small letters, for links to it.
        title: The heading, also in the panel's menu.
        body: HTML, from `piece`.
        about: A line below the heading.
    """

    id: str
    title: str
    body: Markup
    about: str = ""


@dataclass(frozen=True)
class Panel:
    """Everything about one run, or about one comparison. A page of several panels has a tab for each.

    Attributes:
        title: The heading of the panel.
        sections: Its sections, in order.
        head: HTML above the sections.
        label: The text of its tab.
        status: `done`, `failed` or `interrupted` for the tab's mark; empty for none.
    """

    title: str
    sections: Sequence[Section]
    head: Markup = field(default_factory=Markup)
    label: str = ""
    status: str = ""


def page(title: str, panels: Sequence[Panel]) -> str:
    """The HTML of a page, in ASCII: other characters are written as references.

    Args:
        title: The title of the browser's window.
        panels: Its panels. The first is open.
    """
    style, script = Markup(_assets(STYLES)), Markup(_assets(SCRIPTS))
    policy = (
        f"default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; media-src data:; "
        f"style-src '{_hash(style)}'; script-src '{_hash(script)}'"
    )
    made = _templates().get_template("page.html.jinja")
    text = made.render(title=title, panels=panels, style=style, script=script, policy=Markup(policy))
    return text.encode("ascii", "xmlcharrefreplace").decode("ascii")


def piece(name: str, /, template: str = "pieces", **values: Any) -> Markup:
    """The HTML of a macro of a template, `templates/pieces.html.jinja` if not given. Its arguments are escaped."""
    macro = getattr(_templates().get_template(f"{template}.html.jinja").module, name)
    return Markup(macro(**values))


@cache
def _templates() -> Environment:
    """The environment of the templates: everything is escaped, and an unknown name is an error."""
    made = Environment(
        loader=FileSystemLoader(HERE / "templates", encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_plain,
    )
    made.filters.update(seconds=seconds, bytes=lambda value: count(value, "B", 1024), count=count)
    return made


def _plain(value: Any) -> Any:
    """Text of users without control characters, such as those that change its direction."""
    return printable(value) if type(value) is str else value


@cache
def _assets(names: Sequence[str]) -> str:
    """The text of files, as it stands between two tags. It is ASCII and holds no end of a tag."""
    text = "\n".join((HERE / "assets" / name).read_text(encoding="ascii").strip() for name in names)
    return f"\n{text}\n"


def _hash(text: str) -> str:
    """The hash of an element's text, as a content security policy names it (CSP level 3, section 8.3)."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("ascii")).digest()).decode("ascii")
