"""The values of a result as an entry, and back."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..compiler.ir import Call, Loop
from ..contract.array_storage import ArrayStorage
from ..contract.ports import Port
from ..resume.snapshot_file import Snapshot
from ..resume.value_codec import Decoder, Encoder, Unstorable

NOWHERE = Path("/")
"""Values are not of one run's folder. No result with a path is stored."""


class NotFinite(ValueError):
    """A value has numbers that are not finite."""


def encoded(values: Mapping[str, Any], storages: Sequence[ArrayStorage], facts: Mapping[str, Any]) -> Snapshot:
    """The entry of values by port, with further facts.

    Raises:
        Unstorable: If a value has no form in a file.
        NotFinite: If one is not finite.
    """
    encoder = Encoder(storages, NOWHERE)
    ports = {port: encoder.entry(value) for port, value in values.items()}
    if '{"out":' in json.dumps([ports, encoder.objects], separators=(",", ":")) or _paths(encoder.objects):
        raise Unstorable("a path belongs to one run")
    for value in values.values():
        for tensor in _to_check(value):
            if any(storage.holds(tensor) and not storage.finite(tensor) for storage in storages):
                raise NotFinite
    arrays = [(storages.index(storage), storage.stored(array)) for storage, array in encoder.arrays]
    return Snapshot({**facts, "ports": ports, "objects": encoder.objects}, arrays)


def decoded(
    entry: Snapshot, item: Call | Loop, storages: Sequence[ArrayStorage], packages: Collection[str]
) -> dict[str, Any]:
    """The values of an entry by port.

    Raises:
        ValueError: If it does not hold values of the types that the call declares.
    """
    content = entry.content
    if not isinstance(content, Mapping) or not isinstance(content.get("ports"), dict):
        raise ValueError("it holds no values")
    objects = content.get("objects")
    if not isinstance(objects, list):
        raise ValueError("it holds no objects")
    decoder = Decoder(objects, entry.arrays, storages, NOWHERE, packages)
    values = {}
    for port, each in content["ports"].items():
        value = values[port] = decoder.value(each)
        if isinstance(item, Call) and not _fits(item, port, value):
            raise ValueError(f"`{port}` is of another type")
    return values


def _fits(call: Call, port: str, value: Any) -> bool:
    output = call.type.output(port)
    if output is None:
        return False
    entry = output.type.item or output.type
    entries = value if output.type.kind == "list" else [value]
    if not isinstance(entries, list | tuple):
        return False
    cls = entry.cls
    return cls is None or all(isinstance(each, cls) or (each is None and output.optional) for each in entries)


def _to_check(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for each in value:
            yield from _to_check(each)
    elif isinstance(value, Port):
        yield from value.finite_tensors().values()


def _paths(objects: Any) -> bool:
    """Whether an object refers to a file."""
    if isinstance(objects, dict):
        return set(objects) == {"path"} or any(map(_paths, objects.values()))
    return isinstance(objects, list) and any(map(_paths, objects))
