"""Whether weights are the same weights, told from their files without reading all of them. Torch-free.

A file of up to `WHOLE` bytes is read whole. Of a larger one its size, its safetensors header (names, shapes, dtypes
and places of all tensors) and `SAMPLES` pieces of `PIECE` bytes, evenly spaced over the rest, are read: another
training changes nearly every number, so that every piece differs. A change of a few numbers only may be missed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from ....graph.contract.errors import NodeError
from . import weight_files

WHOLE = 64 * 2**20
SAMPLES = 16
PIECE = 2**16


def of_weights(folder: Path, variant: str | None) -> str | None:
    """The fingerprint of a component's weight files, None if it has none on this disk.

    Args:
        folder: The component's folder.
        variant: Variant of the weight files; without files of it, the ordinary ones count, as in loading.

    Raises:
        NodeError: If a file is damaged or a shard is missing.
    """
    if not folder.is_dir():
        return None
    found = (weight_files.weight_files(folder, variant) if variant else []) or weight_files.weight_files(folder, None)
    return of_files(found) if found else None


def of_files(paths: Iterable[Path]) -> str:
    """The fingerprint of files in this order, without their names: `sha256:` and 64 hexadecimal digits.

    Raises:
        NodeError: If one cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            known = path.stat()
            digest.update(_of_file(path, known.st_size, known.st_mtime_ns))
        except OSError as error:
            raise NodeError(f"cannot read {path}: {error.strerror or error}") from error
    return f"sha256:{digest.hexdigest()}"


@lru_cache(maxsize=256)
def _of_file(path: Path, size: int, changed: int) -> bytes:
    """The digest of one file. `changed` is when: a file that was written to since is read again."""
    digest = hashlib.sha256(size.to_bytes(8, "little"))
    with path.open("rb") as stream:
        if size <= WHOLE:
            digest.update(stream.read())
            return digest.digest()
        length = stream.read(8)
        digest.update(length)
        start = 8 + min(int.from_bytes(length, "little"), WHOLE)
        digest.update(stream.read(start - 8))
        for sample in range(SAMPLES):
            stream.seek(start + (size - start - PIECE) * sample // (SAMPLES - 1))
            digest.update(stream.read(PIECE))
    return digest.digest()
