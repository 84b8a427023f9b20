"""From a position to the content of a snapshot."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..compiler.ir import Call, Index, Ref, Var, edges
from ..compiler.plan import Plan
from ..contract.array_storage import ArrayStorage
from .position import FinishedEffect, Key, Position, StateKey
from .snapshot_file import Snapshot
from .value_codec import Encoder, Unstorable


@dataclass(frozen=True)
class Kept:
    """A position with the facts that belong to it.

    Attributes:
        position: The position.
        record: Makes plain data of what the record knew there.
        files: The files of effects up to there.
        effects: Effects that were finished since.
        lost: The loop, the turn and the reason, if the run went on to places that cannot be kept.
        number: The number of its file; None for the next one.
        ranks: The number of ranks that each write a part of the snapshot; 1 if this one is whole.
        agreed: Whether all ranks have agreed to write their parts of it.
        moments: For each storage of arrays, its mark of the device's work up to the position; empty if none is needed.
    """

    position: Position
    record: Callable[[], dict[str, Any]]
    files: tuple[Path, ...]
    effects: tuple[FinishedEffect, ...] = ()
    lost: tuple[str, int, str] | None = field(default=None)
    number: int | None = None
    ranks: int = 1
    agreed: bool = False
    moments: tuple[Any, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether this is the first step of a run: nothing is over."""
        return not self.position.levels and not self.effects

    def after(self, effect: FinishedEffect) -> Kept:
        """The same with one more effect."""
        return replace(self, effects=(*self.effects, effect))

    def without(self, loop: str, turn: int, reason: str) -> Kept:
        """The same, when a later place cannot be kept."""
        return replace(self, lost=(loop, turn, reason))


def plan_key(plan: Plan) -> str:
    """A hash of the steps of a plan: positions are places in it."""
    return hashlib.sha256(str(plan).encode()).hexdigest()


def snapshot_of(
    kept: Kept, plan: Plan, storages: Sequence[ArrayStorage], out: Path, more: Mapping[str, Any]
) -> Snapshot:
    """The snapshot of a position. Arrays are copied to the host here.

    Args:
        kept: The position.
        plan: The plan.
        storages: The storages of arrays.
        out: The folder of the run.
        more: Further entries.

    Raises:
        Unstorable: If a value has no form in a file and cannot be made again.
    """
    encoder = Encoder(storages, out)
    position = kept.position
    values, missing = [], []
    for key, value in position.values.items():
        try:
            values.append([*_key(key), encoder.entry(value)])
        except Unstorable as error:
            if not isinstance(key, Ref):
                raise Unstorable(f"{_key(key)[1]}.{_key(key)[2]}: {error}") from error
            missing.append((key, str(error)))
    stored = {key_of(*entry[:3]) for entry in values}
    calls = {call.id: call for call in plan.calls()}
    again: set[str] = set()
    for ref, reason in missing:
        _make_again(ref, reason, stored, calls, again)
    levels = [
        {
            "loop": level.loop,
            "step": level.step,
            "turn": level.turn,
            "total": level.total,
            "states": _states(level.states, encoder),
            "collected": {n: _entries(found[:count], encoder) for n, (found, count) in level.collected.items()},
            "over": {name: _entries(found, encoder) for name, found in level.over.items()},
        }
        for level in position.levels
    ]
    content = {
        "plan": plan_key(plan),
        "levels": levels,
        "states": _states(position.states, encoder),
        "values": values,
        "again": sorted(again),
        "effects": [found for effect in kept.effects if (found := _effect(effect, encoder, out)) is not None],
        "files": _files(kept.files, out),
        "lost": kept.lost,
        "record": kept.record(),
        "objects": encoder.objects,
        **more,
    }
    moments = kept.moments or (None,) * len(storages)
    numbered = ((storages.index(storage), value) for storage, value in encoder.arrays)
    arrays = [(number, storages[number].stored(value, moments[number])) for number, value in numbered]
    return Snapshot(content, arrays)


def _key(key: Key) -> tuple[str, str, str]:
    if isinstance(key, Ref):
        return "ref", key.node, key.port
    return ("var", key.loop, key.name) if isinstance(key, Var) else ("index", key.loop, "")


def key_of(kind: str, place: str, name: str) -> Key:
    """The key of a value from its stored form."""
    return Ref(place, name) if kind == "ref" else Var(place, name) if kind == "var" else Index(place)


def _states(states: Mapping[StateKey, Any], encoder: Encoder) -> list[list[Any]]:
    found = []
    for (id, name), value in states.items():
        try:
            found.append([id, name, encoder.entry(value)])
        except Unstorable as error:
            raise Unstorable(f"the state `{name}` of {id}: {error}") from error
    return found


def _entries(values: Iterable[Any], encoder: Encoder) -> list[Any]:
    return [encoder.entry(value) for value in values]


def _effect(effect: FinishedEffect, encoder: Encoder, out: Path) -> dict[str, Any] | None:
    """The entry of an effect; None if its outputs have no form, so that it is called again."""
    try:
        outputs = {port: encoder.entry(value) for port, value in effect.outputs.items()}
    except Unstorable:
        return None
    return {"call": effect.call, "turns": effect.turns, "outputs": outputs, "files": _files(effect.files, out)}


def _files(files: Iterable[Path], out: Path) -> list[list[Any]]:
    """The names of files in the folder of the run, and their sizes; -1 for a file that is gone already."""
    root = out.resolve()
    return [[path.relative_to(root).as_posix(), path.stat().st_size if path.is_file() else -1] for path in files]


def _make_again(
    ref: Ref, reason: str, stored: set[Key], calls: Mapping[str, Call], again: set[str], around: tuple[str, ...] = ()
) -> None:
    """Add the call that makes a value, and those that make its inputs, as far as they are not stored.

    Raises:
        Unstorable: If one of them has an effect or a state, or its inputs are gone.
    """
    call = calls.get(ref.node)
    if call is None or call.type.effect or call.type.states or ref.node in around:
        raise Unstorable(f"the value of {ref.node} cannot be kept: {reason}")
    again.add(call.id)
    for source in edges(call.sources):
        if source not in stored:
            if isinstance(source, Var):
                raise Unstorable(f"the value of {ref.node} cannot be kept: {reason}")
            _make_again(source, reason, stored, calls, again, (*around, ref.node))
