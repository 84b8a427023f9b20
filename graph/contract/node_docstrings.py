"""The docstring of a node function as the documentation of its node type."""

from __future__ import annotations

import re


def read_docstring(text: str) -> tuple[str, str, dict[str, str]]:
    """Split a Google-style docstring into summary, whole text, and one text per argument (`return` for the result)."""
    summary = " ".join(text.split("\n\n", 1)[0].split())
    docs: dict[str, str] = {}
    section = current = ""
    for line in text.splitlines():
        heading = re.fullmatch(r"(Args|Returns|Raises):", line.strip())
        entry = re.match(r" {2,4}(\w+): (.*)", line)
        if heading:
            section, current = heading[1], ""
        elif section == "Args" and entry and not line.startswith(" " * 5):
            current = entry[1]
            docs[current] = entry[2].strip()
        elif section == "Args" and current and line.strip():
            docs[current] += " " + line.strip()
        elif section == "Returns" and line.strip():
            docs["return"] = (docs.get("return", "") + " " + line.strip()).strip()
    return summary, text, docs
