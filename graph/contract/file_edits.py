"""Edits of a file that a node library proposes. `language/edit_file.py` writes them into the text of the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PlainValue = str | int | float | bool


@dataclass(frozen=True)
class SetParameter:
    """Write a value for one parameter of a node.

    Attributes:
        node: The node's path in the file.
        parameter: The parameter.
        value: Its value.
    """

    node: str
    parameter: str
    value: PlainValue


@dataclass(frozen=True)
class InsertNode:
    """Put a node between another node and everything that reads its output.

    Attributes:
        after: Path of the node whose output the new node takes.
        name: Name of the new node. A number is added if the file has the name already.
        uses: Node type of the new node.
        parameter: The parameter that takes the output of `after`.
        values: Further parameters.
    """

    after: str
    name: str
    uses: str
    parameter: str
    values: Mapping[str, PlainValue] = field(default_factory=dict)


@dataclass(frozen=True)
class ReplaceNode:
    """Write another node under the name of one. Its name, its place and all comments stay.

    Attributes:
        node: The node's path in the file.
        uses: The new node type.
        values: Its parameters, as plain data. Text in them is never a reference.
        keep: Parameters of the node before whose references the new one takes over, where `values` has none.
    """

    node: str
    uses: str
    values: Mapping[str, Any] = field(default_factory=dict)
    keep: frozenset[str] = frozenset()


FileEdit = SetParameter | InsertNode | ReplaceNode
