"""Which steps of a plan run, which results come from the store, and which nobody needs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..compiler.ir import Call, Loop, Ref
from ..compiler.plan import CallStep, LoopStep
from ..contract.array_storage import ArrayStorage
from ..resume.snapshot_file import Damaged
from .entries import Store
from .keys import Item, Keys, Place
from .stored_values import decoded

Load = Callable[[Item], "Loaded | None"]


@dataclass(frozen=True)
class Loaded:
    """A stored result: its values by port, and what the run that made it told."""

    values: Mapping[str, Any]
    content: Mapping[str, Any]


@dataclass
class Decision:
    """What happens to each item of a plan.

    Attributes:
        stored: Results that come from the store. Each is dropped when it is taken.
        run: Items that run.
        calls: For each call that runs, the turns of the loops that are taken apart.
    """

    stored: dict[Place, Loaded] = field(default_factory=dict)
    run: set[Place] = field(default_factory=set)
    calls: dict[str, set[tuple[int, ...]]] = field(default_factory=dict)

    def runs_one(self, calls: Iterable[str], turns: tuple[int, ...]) -> bool:
        """Whether one of these calls runs in these turns."""
        return any(each[: len(turns)] == turns for id in calls for each in self.calls.get(id, ()))


@dataclass(frozen=True)
class Reuse:
    """The facts about stored results that each process of a run must know.

    Attributes:
        around: For each call and loop that has items, the loops around it.
        lengths: For each item, the number of turns of a loop that is stored turn by turn; see `Item.length`.
        decision: The decision for each item. Only the process with the store has the results.
        sent: Stored results that other processes need.
    """

    around: Mapping[str, tuple[str, ...]]
    lengths: Mapping[Place, int]
    decision: Decision
    sent: frozenset[Place] = frozenset()

    def for_others(self) -> Reuse:
        """The same without the results."""
        return replace(self, decision=Decision({}, self.decision.run, self.decision.calls))


def reuse_of(keys: Keys, decision: Decision, elsewhere: Collection[str] = ()) -> Reuse:
    """The facts for the processes of a run that follow from a decision.

    Args:
        keys: The keys of the plan.
        decision: The decision.
        elsewhere: Paths of the calls that run in other processes too, if they run.
    """
    items = (item for item in keys.items.values() if item.place in decision.run)
    read = (place for item in items if not set(elsewhere).isdisjoint(item.calls) for place in item.needs)
    lengths = {place: item.length for place, item in keys.items.items()}
    return Reuse(keys.around, lengths, decision, frozenset(read) & frozenset(decision.stored))


def decide(keys: Keys, load: Load) -> Decision:
    """Go back from effects, outputs and items that nobody reads to what they need. A stored result needs nothing.

    The plan of a part of a workflow may have neither effects nor outputs.

    Args:
        keys: The keys of the plan.
        load: Gives the stored result of an item; None if there is none, or it is damaged.
    """
    found = Decision()
    read = {place for item in keys.items.values() for place in item.needs}
    inside = {(loop, place[1][:depth]) for place in keys.items for depth, loop in enumerate(keys.around[place[0]])}
    wanted = [place for place, item in keys.items.items() if item.effect or place not in read | inside]
    wanted += sorted(keys.outputs)
    seen: set[Place] = set()
    while wanted:
        place = wanted.pop()
        if place in seen:
            continue
        seen.add(place)
        item, turns = keys.items[place], place[1]
        wanted += [(loop, turns[:depth]) for depth, loop in enumerate(keys.around[place[0]])]
        loaded = load(item) if item.key is not None else None
        if loaded is not None:
            found.stored[place] = loaded
            continue
        found.run.add(place)
        for call in item.calls:
            found.calls.setdefault(call, set()).add(turns)
        wanted += item.needs
    return found


def read_ports(step: CallStep | LoopStep) -> set[str]:
    """The ports of a step whose values a later step reads."""
    item: Call | Loop = step.call if isinstance(step, CallStep) else step.loop
    ports = [o.name for o in item.type.outputs] if isinstance(item, Call) else list(item.body.outputs)
    return {port for port in ports if Ref(item.id, port) not in step.free}


def load_from(
    store: Store,
    storages: Sequence[ArrayStorage],
    packages: Collection[str],
    warn: Callable[[str], None],
) -> Load:
    """A function that loads the stored result of an item. A damaged entry is removed with a warning."""

    def load(item: Item) -> Loaded | None:
        assert item.key is not None
        node: Call | Loop = item.step.call if isinstance(item.step, CallStep) else item.step.loop
        try:
            entry = store.read(item.key)
            if entry is None:
                return None
            values = decoded(entry, node, storages, packages)
        except (Damaged, ValueError, OverflowError, RecursionError, RuntimeError) as error:
            warn(f"the stored result of {node.id} is damaged, and is computed again: {error}")
            store.drop(item.key)
            return None
        except OSError as error:
            warn(f"the stored result of {node.id} cannot be read: {error.strerror or error}")
            return None
        return Loaded(values, entry.content) if read_ports(item.step) <= set(values) else None

    return load
