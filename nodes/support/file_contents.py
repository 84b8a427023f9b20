"""Recognises files that hold something else than their name says, from their first bytes. Torch-free."""

from __future__ import annotations

from typing import NamedTuple


class Mistaken(NamedTuple):
    """The kind of a file, and how to get the right one."""

    what: str
    cure: str


_STARTS = (
    (
        b"version https://git-lfs.github.com",
        Mistaken("a pointer of Git LFS, not the file itself", "run `git lfs pull` in the folder of the model"),
    ),
    (b"GGUF", Mistaken("a GGUF file", "it cannot stand here: use the safetensors file of the model")),
    (b"PK\x03\x04", Mistaken("a zip archive or a pickled file", "get the file as safetensors")),
    (b"\x80\x02", Mistaken("a pickled file", "get the file as safetensors")),
    (b"\x1f\x8b", Mistaken("a gzip archive", "unpack it")),
)
_PAGES = (b"<!doctype", b"<html", b"<?xml", b"<head", b"<error")


def mistaken(start: bytes) -> Mistaken | None:
    """The kind of a file that is neither JSON nor safetensors, from its first bytes; None if it is not known."""
    for magic, found in _STARTS:
        if start.startswith(magic):
            return found
    if start.lstrip()[:9].lower().startswith(_PAGES):
        return Mistaken("a page of a web site, not the file itself", "download the file again; log in if it needs that")
    return None
