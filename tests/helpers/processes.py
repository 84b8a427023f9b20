"""Processes of this machine, from /proc."""

from __future__ import annotations

from pathlib import Path


def of_session(session: int) -> list[int]:
    """Numbers of the processes of a session that are still there."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(folder.name))
    return found
