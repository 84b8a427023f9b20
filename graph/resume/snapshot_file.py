"""A snapshot as a safetensors file: the arrays, and in the header a JSON text and a hash of everything.

Written under a temporary name, flushed to the disk and renamed, so that no reader sees half of a file. The format of
safetensors (https://huggingface.co/docs/safetensors): eight bytes of length, JSON, then the arrays without gaps.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..contract.array_storage import StoredArray
from ..contract.output_files import create, temporary_path

FORMAT = "sgd-snapshot-1"
LONGEST = 1 << 30
"""Most bytes of a header."""


class Damaged(ValueError):
    """A file is not a whole snapshot."""


@dataclass(frozen=True)
class Snapshot:
    """The content of a snapshot.

    Attributes:
        content: The JSON value.
        arrays: The arrays, each with the number of its storage.
        parts: The snapshots of ranks 1, 2, … if several processes have parts of the states.
    """

    content: Mapping[str, Any]
    arrays: Sequence[tuple[int, StoredArray]]
    parts: Sequence[Snapshot] = ()


def write(snapshot: Snapshot, path: Path) -> None:
    """Write a snapshot in one step. When it returns, the file is on the disk.

    Raises:
        OSError: If it cannot be written. There is no file of this name then.
    """
    text = json.dumps(snapshot.content, separators=(",", ":"), allow_nan=False)
    entries: dict[str, Any] = {}
    end = 0
    for number, (storage, array) in enumerate(snapshot.arrays):
        begin, end = end, end + len(array.data)
        name = f"{number}:{storage}:{json.dumps(array.form, separators=(',', ':'))}"
        entries[name] = {"dtype": array.dtype, "shape": list(array.shape), "data_offsets": [begin, end]}
    digest = _digest(text, entries, [array.data for _, array in snapshot.arrays])
    metadata = {"format": FORMAT, "content": text, "sha256": digest}
    header = json.dumps({"__metadata__": metadata, **entries}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    temporary = temporary_path(path)
    try:
        create(temporary)
        with temporary.open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            for _, array in snapshot.arrays:
                file.write(array.data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


def read(path: Path) -> Snapshot:
    """Read a snapshot whole, and check its hash.

    Raises:
        Damaged: If the file is cut off, changed, or no snapshot of this version of sgd.
        OSError: If it cannot be read.
    """
    data = memoryview(path.read_bytes())
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(len(data) - 8, LONGEST):
        raise Damaged(f"{path} is cut off")
    body = data[8 + length :]
    try:
        header = json.loads(bytes(data[8 : 8 + length]))
        metadata = header.pop("__metadata__")
        if metadata["format"] != FORMAT:
            raise Damaged(f"{path} is no snapshot of this version of sgd")
        arrays = []
        for name, entry in header.items():
            _, storage, form = name.split(":", 2)
            begin, end = entry["data_offsets"]
            if end > len(body):
                raise Damaged(f"{path} is cut off")
            array = StoredArray(entry["dtype"], tuple(entry["shape"]), body[begin:end], json.loads(form))
            arrays.append((int(storage), array))
        text = metadata["content"]
        if _digest(text, header, [array.data for _, array in arrays]) != metadata["sha256"]:
            raise Damaged(f"{path} is damaged: its hash is another")
        return Snapshot(json.loads(text), arrays)
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        if isinstance(error, Damaged):
            raise
        raise Damaged(f"{path} is damaged: its header cannot be read") from error


def _digest(text: str, entries: Mapping[str, Any], arrays: Sequence[Any]) -> str:
    digest = hashlib.sha256(json.dumps([text, entries]).encode())
    for data in arrays:
        digest.update(data)
    return digest.hexdigest()


def flush_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk, where the system can do that."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
