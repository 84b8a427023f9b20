"""The version of records of runs. It changes only if a key changes its meaning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .errors import UnreadableFile
from .text_tables import shortened

RECORD_VERSION = 1


def check_version(record: Mapping[str, Any], name: str) -> None:
    """Refuse a record of another version.

    Args:
        record: The record.
        name: Name of its file, for the message.

    Raises:
        UnreadableFile: If this sgd cannot know what the record's keys mean.
    """
    version = record["record"]
    if type(version) is not int or version != RECORD_VERSION:
        shown = shortened(repr(version), 20)
        raise UnreadableFile(
            f"{name} is a record of version {shown}; this sgd reads version {RECORD_VERSION}",
            help=f"use the sgd that made it: {shortened(str(record.get('sgd')), 40)}",
        )
