"""Fingerprints of weights from samples of their files. Equal weights have equal fingerprints. Torch-free.

A file of up to `WHOLE_LIMIT` bytes is read whole. For a larger file, the fingerprint covers its size, its safetensors
header (names, shapes, dtypes and offsets of all tensors) and `SAMPLES` samples of `SAMPLE_BYTES` bytes, evenly spaced
over the tensors. Another training changes nearly every number and therefore every sample. The fingerprint may miss a
change of only a few numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from ....graph.contract.errors import NodeError
from . import weight_files

WHOLE_LIMIT = 64 * 2**20
SAMPLES = 16
SAMPLE_BYTES = 2**16


def of_weights(folder: Path, variant: str | None) -> str | None:
    """The fingerprint of a component's weight files; None if this disk has none.

    Args:
        folder: The component's folder.
        variant: Variant of the weight files. Without files of this variant, the ordinary files count, as in loading.

    Raises:
        NodeError: If a file is damaged or a shard is missing.
    """
    if not folder.is_dir():
        return None
    found = (weight_files.weight_files(folder, variant) if variant else []) or weight_files.weight_files(folder, None)
    return of_files(found) if found else None


def of_files(paths: Iterable[Path]) -> str:
    """Compute the fingerprint of files in this order: `sha256:` and 64 hexadecimal digits. File names do not matter.

    Raises:
        NodeError: If a file cannot be read.
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
    """Compute the digest of one file. `changed` is the file's time of change in ns. A changed file is read again."""
    digest = hashlib.sha256(size.to_bytes(8, "little"))
    with path.open("rb") as stream:
        if size <= WHOLE_LIMIT:
            digest.update(stream.read())
            return digest.digest()
        length = stream.read(8)
        digest.update(length)
        start = 8 + min(int.from_bytes(length, "little"), WHOLE_LIMIT)
        digest.update(stream.read(start - 8))
        for sample in range(SAMPLES):
            stream.seek(start + (size - start - SAMPLE_BYTES) * sample // (SAMPLES - 1))
            digest.update(stream.read(SAMPLE_BYTES))
    return digest.digest()
