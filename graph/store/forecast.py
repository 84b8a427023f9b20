"""What a plan would take from a folder of stored results, and what it would run."""

from __future__ import annotations

from dataclasses import dataclass, field

from .entries import FolderStore, header
from .keys import Item, Keys
from .reuse import Loaded, decide, read_ports


@dataclass
class NodeForecast:
    """What happens to the calls of one node: how many run, and for how many the result is stored.

    Both are 0 for a node whose result is not stored and not needed. `unknown`: whether it runs is not known before its
    files are hashed; it counts as one that runs.
    """

    runs: int = 0
    reused: int = 0
    unknown: bool = False

    @property
    def text(self) -> str:
        """`runs`, `reused`, `1 of 3 reused`, `?`, or `-`."""
        if self.unknown:
            return "?"
        if self.runs and self.reused:
            return f"{self.reused} of {self.runs + self.reused} reused"
        return "runs" if self.runs else "reused" if self.reused else "-"


@dataclass
class Forecast:
    """The nodes of a plan and a folder of stored results.

    Attributes:
        folder: The folder.
        nodes: What happens to each node, by path.
        saved_seconds: The time that making the reused results took.
        unhashed: A file whose hash is not known, so that keys are not; None if there is none.
    """

    folder: str
    nodes: dict[str, NodeForecast] = field(default_factory=dict)
    saved_seconds: float = 0.0
    unhashed: str | None = None

    def those(self, text: str) -> list[str]:
        """The paths of nodes with this text. Those of which a part is reused count as `runs`, and as `reused`."""
        found = {"runs": lambda node: node.runs and not node.unknown, "reused": lambda node: node.reused}
        return [id for id, node in self.nodes.items() if found.get(text, lambda node: node.text == text)(node)]

    def named(self, text: str) -> list[str]:
        """The same for people: with the numbers of calls of a node that is reused in part."""
        names = []
        for id in self.those(text):
            node = self.nodes[id]
            number = node.runs if text == "runs" else node.reused
            names.append(f"{id} ({number} of {node.runs + node.reused})" if node.runs and node.reused else id)
        return names

    def json(self) -> dict[str, object]:
        """The forecast as plain data."""
        return {
            "folder": self.folder,
            "runs": self.those("runs"),
            "reused": self.those("reused"),
            "not_needed": self.those("-"),
            "unknown": self.those("?"),
            "saved_seconds": self.saved_seconds,
            "unhashed": self.unhashed,
        }


def forecast(keys: Keys, store: FolderStore, unhashed: str | None = None) -> Forecast:
    """Look up the results of a plan, without reading their values and without counting as a use of them.

    Args:
        keys: The keys of the plan.
        store: The stored results.
        unhashed: See `Forecast`.
    """

    def load(item: Item) -> Loaded | None:
        assert item.key is not None
        content = header(store.path(item.key))
        ports = content.get("ports") if content is not None else None
        return (
            Loaded({}, content) if content and isinstance(ports, dict) and read_ports(item.step) <= set(ports) else None
        )

    decision = decide(keys, load)
    found = Forecast(str(store.folder), unhashed=unhashed)
    for place, item in keys.items.items():
        loaded = None
        if place not in decision.run and item.key is not None:
            loaded = decision.stored.get(place) or load(item)
            found.saved_seconds += _seconds(loaded)
        for call in item.calls:
            node = found.nodes.setdefault(call, NodeForecast())
            if place in decision.run:
                node.runs += 1
                node.unknown = node.unknown or (unhashed is not None and item.key is None and not item.effect)
            elif loaded is not None:
                node.reused += 1
    return found


def _seconds(loaded: Loaded | None) -> float:
    took = loaded.content.get("seconds") if loaded is not None else None
    return float(took) if isinstance(took, int | float) else 0.0
