"""States of the standard library, cut after every step and restored from a file: latents are equal bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import tiny
from helpers.direct import BOTH, DirectRun, model_of
from sgd.graph.contract.node import Unkept
from sgd.graph.resume import snapshot_file
from sgd.graph.resume.snapshot_file import Snapshot
from sgd.graph.resume.value_codec import Decoder, Encoder
from sgd.nodes import cfg, denoiser, latents, schedule, text
from sgd.nodes.cache.gate import Gate
from sgd.nodes.cache.methods import custom_gate, dbcache, easycache, fora, magcache, taylorseer, teacache
from sgd.nodes.cache.state import GateState
from sgd.nodes.cfg import GuiderState
from sgd.nodes.schedule import SchedulerState
from sgd.nodes.support.tensor_storage import TensorStorage
from sgd.nodes.values import Latents

STORAGES = [TensorStorage("cpu")]


def through_a_file(value: Any, file: Path) -> Any:
    """A value that was written to a snapshot and read again."""
    encoder = Encoder(STORAGES, file.parent)
    entry = encoder.entry(value)
    arrays = [(0, storage.stored(array)) for storage, array in encoder.arrays]
    snapshot_file.write(Snapshot({"entry": entry, "objects": encoder.objects}, arrays), file)
    found = snapshot_file.read(file)
    return Decoder(found.content["objects"], found.arrays, STORAGES, file.parent, {"sgd"}).value(found.content["entry"])
