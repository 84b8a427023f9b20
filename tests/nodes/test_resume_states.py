"""States of the standard library, cut after every step and restored from a file: latents are equal bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sgd.graph.resume import snapshot_file
from sgd.graph.resume.snapshot_file import Snapshot
from sgd.graph.resume.value_codec import Decoder, Encoder
from sgd.nodes.support.tensor_storage import TensorStorage

STORAGES = [TensorStorage("cpu")]


def through_a_file(value: Any, file: Path) -> Any:
    """A value that was written to a snapshot and read again."""
    encoder = Encoder(STORAGES, file.parent)
    entry = encoder.entry(value)
    arrays = [(0, storage.stored(array)) for storage, array in encoder.arrays]
    snapshot_file.write(Snapshot({"entry": entry, "objects": encoder.objects}, arrays), file)
    found = snapshot_file.read(file)
    return Decoder(found.content["objects"], found.arrays, STORAGES, file.parent, {"sgd"}).value(found.content["entry"])
