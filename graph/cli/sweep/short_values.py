"""Short texts for whole nodes: `cache.tuned psnr: 38` for `{uses: cache.tuned, table: …, psnr: 38}`.

Parameters that all nodes of a type have in common are left out, so that the rest tells the nodes apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import yaml


def short_values(values: Iterable[str]) -> dict[str, str]:
    """A short text for each value. Values that are no whole nodes stay as they are.

    Args:
        values: The values of one name, as the command line has them.
    """
    nodes = {value: _node(value) for value in values}
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for node in nodes.values():
        if node is not None:
            groups.setdefault(node["uses"], []).append(node)
    found = {value: value if node is None else _text(node, groups[node["uses"]]) for value, node in nodes.items()}
    return found if len(set(found.values())) == len(found) else {value: value for value in found}


def _node(value: str) -> Mapping[str, Any] | None:
    """The keys of a whole node; None for another value."""
    if not value.startswith("{uses:"):
        return None
    try:
        node = yaml.safe_load(value)
    except yaml.YAMLError:
        return None
    return node if isinstance(node, dict) and isinstance(node.get("uses"), str) else None


def _text(node: Mapping[str, Any], group: Iterable[Mapping[str, Any]]) -> str:
    """The type of a node, and the parameters in which it differs from the others of its type."""
    others = [each for each in group if each is not node]
    own = {name: value for name, value in node.items() if name != "uses"}
    shown = {name: value for name, value in own.items() if any(name not in o or o[name] != value for o in others)}
    return " ".join([node["uses"], ", ".join(f"{name}: {_plain(value)}" for name, value in shown.items())]).strip()


def _plain(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10_000)
    return text.removesuffix("\n...\n").strip()
