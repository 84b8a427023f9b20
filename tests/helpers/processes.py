"""Processes of this machine, from /proc, and the device of runs in several processes."""

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


def started_by(starter: int) -> list[int]:
    """Numbers of the ranks that a process started, as far as they are still there."""
    found, word = [], f"SGD_STARTED_BY={starter}".encode()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words = (folder / "environ").read_bytes().split(b"\0")
                state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if word in words and state != "Z":
                found.append(int(folder.name))
    return found


def device_of(count: int) -> str:
    """The device of `sgd exec` in so many processes: GPUs, and NCCL between them, if this machine has enough."""
    import torch

    return "cuda" if torch.cuda.device_count() >= count else "cpu"
