"""Values as JSON and arrays, and back. Nothing is pickled: the file names classes, and only known ones are made.

Every list, mapping, dataclass and array is stored once, however often it is referred to, and its references refer to
one object again afterwards.
"""

from __future__ import annotations

import enum
import math
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from ..contract.array_storage import ArrayStorage, StoredArray
from ..contract.ports import Port


class Unstorable(Exception):
    """A value has no form in a file."""


class Encoder:
    """Turns values into entries of JSON.

    Args:
        storages: The storages of arrays of the loaded libraries.
        folder: The folder of the run. Paths in it are stored relative to it.

    Attributes:
        objects: The stored lists, mappings and dataclasses.
        arrays: The stored arrays, not yet as bytes.
    """

    def __init__(self, storages: Sequence[ArrayStorage], folder: Path) -> None:
        self.storages, self.folder = storages, folder.resolve()
        self.objects: list[Any] = []
        self.arrays: list[tuple[ArrayStorage, Any]] = []
        self._known: dict[int, tuple[Any, dict[str, int]]] = {}
        self._open: set[int] = set()

    def entry(self, value: Any) -> Any:
        """The entry of a value.

        Raises:
            Unstorable: If it has none. Nothing of it is stored then.
        """
        known, objects, arrays = dict(self._known), len(self.objects), len(self.arrays)
        try:
            return self._entry(value)
        except Unstorable:
            self._known = known
            self._open.clear()
            del self.objects[objects:], self.arrays[arrays:]
            raise

    def _entry(self, value: Any) -> Any:
        if isinstance(value, enum.Enum):
            return {"enum": _class(type(value)), "name": value.name}
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int | str):  # of a class derived from these, such as `Here`, the plain value
            return int(value) if isinstance(value, int) else str(value)
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else {"float": str(value)}
        if isinstance(value, Path):
            inside = value.is_absolute() and value.is_relative_to(self.folder)
            return {"out": str(value.relative_to(self.folder))} if inside else {"path": str(value)}
        if id(value) in self._known:
            return self._known[id(value)][1]
        if id(value) in self._open:
            raise Unstorable(f"a {type(value).__name__} contains itself")
        for storage in self.storages:
            if storage.holds(value):
                self.arrays.append((storage, value))
                return self._know(value, {"array": len(self.arrays) - 1})
        self._open.add(id(value))
        made = self._object(value)
        self._open.discard(id(value))
        self.objects.append(made)
        return self._know(value, {"object": len(self.objects) - 1})

    def _know(self, value: Any, entry: dict[str, int]) -> dict[str, int]:
        self._known[id(value)] = value, entry  # the value lives on, so that no other has its identity
        return entry

    def _object(self, value: Any) -> dict[str, Any]:
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return {"tuple": [self._entry(each) for each in value], "class": _class(type(value))}
        if isinstance(value, list | tuple | set | frozenset):
            kind = next(name for name, made in KINDS.items() if isinstance(value, made))
            return {kind: [self._entry(each) for each in value]}
        if hasattr(value, "acquire"):
            raise Unstorable(f"{type(value).__name__} has parts that are loaded")
        if isinstance(value, Mapping) and not is_dataclass(value):
            return {"mapping": [[self._entry(k), self._entry(v)] for k, v in value.items()]}
        if not is_dataclass(value) and not isinstance(value, Port):
            raise Unstorable(f"{type(value).__name__} has no form in a file")
        named = {name: self._entry(each) for name, each in _attributes(value).items()}
        return {"fields": named, "class": _class(type(value))}


KINDS: Mapping[str, type] = {"list": list, "tuple": tuple, "frozenset": frozenset, "set": set}


def _attributes(value: Any) -> dict[str, Any]:
    if is_dataclass(value):
        return {each.name: getattr(value, each.name) for each in fields(value)}
    return dict(vars(value))


def _class(kind: type) -> str:
    if "<" in kind.__qualname__:
        raise Unstorable(f"{kind.__qualname__} stands inside a function")
    return f"{kind.__module__}:{kind.__qualname__}"


class Decoder:
    """Turns entries into values.

    Args:
        objects: The stored objects.
        arrays: The stored arrays, each with the number of its storage.
        storages: The storages, in the order of the encoder's.
        folder: The folder of the run.
        packages: Packages and modules whose dataclasses, values of ports and enumerations may be made.
    """

    def __init__(
        self,
        objects: Sequence[Any],
        arrays: Sequence[tuple[int, StoredArray]],
        storages: Sequence[ArrayStorage],
        folder: Path,
        packages: Collection[str],
    ) -> None:
        self.objects, self.arrays, self.storages = objects, arrays, storages
        self.folder, self.packages = folder.resolve(), packages
        self._made: dict[tuple[str, int], Any] = {}

    def value(self, entry: Any) -> Any:
        """The value of an entry.

        Raises:
            ValueError: If there is no such value.
        """
        try:
            return self._value(entry)
        except (KeyError, TypeError, AttributeError, IndexError, StopIteration) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error

    def _value(self, entry: Any) -> Any:
        if not isinstance(entry, dict):
            return entry
        if "float" in entry:
            return float(entry["float"])
        if "enum" in entry:
            return self._class(entry["enum"])[entry["name"]]
        if "out" in entry:
            return self.folder / entry["out"]
        if "path" in entry:
            return Path(entry["path"])
        (kind, number), *_ = entry.items()
        if (kind, number) not in self._made:
            self._made[kind, number] = self._array(number) if kind == "array" else self._object(self.objects[number])
        return self._made[kind, number]

    def _array(self, number: int) -> Any:
        storage, stored = self.arrays[number]
        return self.storages[storage].restored(stored)

    def _object(self, stored: Mapping[str, Any]) -> Any:
        if "mapping" in stored:
            return {self._value(key): self._value(value) for key, value in stored["mapping"]}
        if "fields" not in stored:
            kind = next(name for name in KINDS if name in stored)
            entries = [self._value(each) for each in stored[kind]]
            return self._class(stored["class"])(*entries) if "class" in stored else KINDS[kind](entries)
        made = object.__new__(self._class(stored["class"]))
        for name, entry in stored["fields"].items():
            object.__setattr__(made, name, self._value(entry))
        return made

    def _class(self, name: str) -> Any:
        module, _, path = name.partition(":")
        if module not in self.packages and module.partition(".")[0] not in self.packages:
            raise ValueError(f"{name} is no class of a node library")
        found: Any = sys.modules[module]
        for part in path.split("."):
            found = getattr(found, part)
        named = isinstance(found, type) and issubclass(found, tuple) and hasattr(found, "_fields")
        if not isinstance(found, type) or not (is_dataclass(found) or named or issubclass(found, Port | enum.Enum)):
            raise ValueError(f"{name} is no class of values")
        return found
