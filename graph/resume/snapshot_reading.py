"""From the content of a snapshot to the place where a run goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..compiler.ir import Call
from ..compiler.plan import Plan
from ..contract.array_storage import ArrayStorage
from ..contract.processes import Mesh, mesh_of
from .position import FinishedEffect, LoopLevel, Position, Start, StateKey
from .snapshot_content import key_of, plan_key
from .snapshot_file import Snapshot
from .value_codec import Decoder

OWN = "sgd"


@dataclass(frozen=True)
class Resumed:
    """A run before it goes on.

    Attributes:
        snapshot: The snapshot; None if no turn was over, so that the run begins again.
        place: Where it goes on, in words.
        lost: The loop that begins again though turns of it were over: its path, their number, and the reason.
        warnings: Why later snapshots were not used, for the record.
    """

    snapshot: Snapshot | None = None
    place: str = "no turn had finished, so it begins at its first node"
    lost: tuple[str, int, str] | None = None
    warnings: tuple[str, ...] = ()

    @property
    def record(self) -> Mapping[str, Any]:
        """What the record knew."""
        return self.snapshot.content["record"] if self.snapshot is not None else {}

    @property
    def choices(self) -> Mapping[str, Any]:
        """The choices of the run."""
        return self.snapshot.content["choices"] if self.snapshot is not None else {}

    @property
    def is_inside(self) -> bool:
        """Whether it goes on inside of a loop, and not at its first node."""
        return self.snapshot is not None and bool(self.snapshot.content["levels"])

    @property
    def keys(self) -> str | None:
        """The hash of the keys of its stored results; None if it had no store, or its processes had several."""
        return self.snapshot.content.get("keys") if self.snapshot is not None else None

    @property
    def used(self) -> Sequence[Mapping[str, Any]]:
        """The files that the run had used, as `UsedFiles.places` gives them."""
        return self.snapshot.content["used"] if self.snapshot is not None else []

    def finished_effects(self, out: Path) -> list[str]:
        """Paths of the calls with effects that were finished after the snapshot's place."""
        effects = self.snapshot.content["effects"] if self.snapshot is not None else []
        return [each["call"] for each in effects if _is_there(each, out)]

    def files(self, out: Path) -> list[Path]:
        """The files of calls with effects that need not be called again."""
        if self.snapshot is None:
            return []
        content = self.snapshot.content
        entries = [
            *content["files"],
            *(e for each in content["effects"] if _is_there(each, out) for e in each["files"]),
        ]
        return [out.resolve() / name for name, _ in entries]

    def start(self, plan: Plan, storages: Sequence[ArrayStorage], out: Path) -> Start | None:
        """The place in the plan; None if the run begins at its first node.

        Raises:
            ValueError: If the content is no position in this plan.
        """
        return None if self.snapshot is None else _start(self.snapshot, plan, storages, out)


def resumed_at(snapshot: Snapshot, plan: Plan) -> Resumed:
    """A run that goes on after a snapshot.

    Raises:
        ValueError: If the snapshot belongs to another plan.
    """
    content = snapshot.content
    if content["plan"] != plan_key(plan):
        raise ValueError("the plan of the workflow is another than that of the run")
    turns = [f"{level['turn']} of {level['total']} turns of {level['loop']}" for level in content["levels"]]
    lost = content["lost"]
    place = f"after {', '.join(turns)}" if turns else Resumed.place
    return Resumed(snapshot, place, None if lost is None else (lost[0], lost[1], lost[2]))


def _start(snapshot: Snapshot, plan: Plan, storages: Sequence[ArrayStorage], out: Path) -> Start:
    content = snapshot.content
    calls = {call.id: call for call in plan.calls()}
    modules = {call.type.function.__module__ for call in calls.values()}
    packages = {OWN, *modules, *(name.partition(".")[0] for name in modules)}

    def decoder_of(each: Snapshot) -> Decoder:
        return Decoder(each.content["objects"], each.arrays, storages, out, packages)

    decoder = decoder_of(snapshot)
    value = decoder.value
    parts = [_states_of(part.content, decoder_of(part)) for part in snapshot.parts]
    if any(_place(part.content) != _place(content) for part in snapshot.parts):
        raise ValueError("its parts are of several places")
    outer, *inner = _states_of(content, decoder)
    if parts:
        mesh = mesh_of(content["mesh"])
        if mesh.size != 1 + len(parts):
            raise ValueError(f"it has {1 + len(parts)} parts of {mesh.size}")
        outer, *inner = (_whole(each, calls, mesh) for each in zip([outer, *inner], *parts, strict=True))
    levels = tuple(
        LoopLevel(
            level["loop"],
            level["step"],
            level["turn"],
            level["total"],
            states,
            {n: (list(map(value, found)), len(found)) for n, found in level["collected"].items()},
            {name: list(map(value, found)) for name, found in level["over"].items()},
        )
        for level, states in zip(content["levels"], inner, strict=True)
    )
    values = {key_of(kind, place, name): value(entry) for kind, place, name, entry in content["values"]}
    effects = {}
    for each in content["effects"]:
        if _is_there(each, out):
            outputs = {port: value(entry) for port, entry in each["outputs"].items()}
            found = FinishedEffect(each["call"], tuple(each["turns"]), outputs, ())
            effects[found.call, found.turns] = found
    return Start(Position(levels, outer, values), frozenset(content["again"]), effects)


def _place(content: Mapping[str, Any]) -> list[Any]:
    """The loops under way and their turns."""
    return [[level["loop"], level["turn"]] for level in content["levels"]]


def _states_of(content: Mapping[str, Any], decoder: Decoder) -> list[dict[StateKey, Any]]:
    """Snapshots of the states outside of loops, and of those of each loop under way."""
    return [_states(entries, decoder) for entries in (content["states"], *(e["states"] for e in content["levels"]))]


def _whole(ranks: Sequence[Mapping[StateKey, Any]], calls: Mapping[str, Call], mesh: Mesh) -> dict[StateKey, Any]:
    """Join the state snapshots of all ranks into those of one process. Ranks other than 0 have only divided states."""
    whole = dict(ranks[0])
    for key in dict.fromkeys(key for rank in ranks[1:] for key in rank):
        id, name = key
        try:
            whole[key] = calls[id].type.states[name].merged([each.get(key) for each in ranks], mesh)
        except (LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"the state `{name}` of {id}: {type(error).__name__}: {error}") from error
    return whole


def _states(entries: Sequence[Any], decoder: Decoder) -> dict[StateKey, Any]:
    return {(id, name): decoder.value(entry) for id, name, entry in entries}


def _is_there(effect: Mapping[str, Any], out: Path) -> bool:
    """Whether the files of an effect are there as it wrote them."""
    return not missing_files(effect["files"], out)


def missing_files(files: Sequence[Any], out: Path) -> list[str]:
    """The names of files that are gone or have another size."""
    return [name for name, size in files if not (out / name).is_file() or (out / name).stat().st_size != size]
