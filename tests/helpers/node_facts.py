"""Call the functions of a node type on facts that are written as plain values, and read facts as plain values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from sgd.graph.contract.diagnostics import Diagnostic
from sgd.graph.contract.facts import Facts, NodeFacts
from sgd.graph.contract.node import NodeFunction, NodeType
from sgd.nodes.cache.gate import GateFacts
from sgd.nodes.value_facts import ModelFacts, TransformFact
from sgd.nodes.values import Size

Node = NodeFunction[..., Any]


def check(node: Node, **known: Any) -> list[Diagnostic]:
    """The problems that the node's `check` finds; a parameter that is left out is unknown."""
    assert node.node.check is not None
    return list(node.node.check(facts(node.node, known)))


def describe(node: Node, **known: Any) -> Any:
    """The facts that the node's `describe` returns, as a mapping without unknown facts."""
    assert node.node.describe is not None
    return plain(node.node.describe(facts(node.node, known)))


def reads(node: Node, **known: Any) -> Mapping[str, Any]:
    """The parts that the node's `reads` returns."""
    assert node.node.reads is not None
    return node.node.reads(facts(node.node, known))


def renames(node: Node, **known: Any) -> Mapping[str, Any]:
    """The names that the node's `renames` returns."""
    assert node.node.renames is not None
    return node.node.renames(facts(node.node, known))


def facts(node: NodeType, known: Mapping[str, Any]) -> NodeFacts:
    """The facts of a node, from mappings by attribute for values, and from the values of plain parameters."""
    assert node.facts is not None
    made: dict[str, Any] = {}
    for name, value in known.items():
        if isinstance(value, Mapping):
            kind = node.facts.kinds.get(name) or (GateFacts if {"gate", "gates"} & set(value) else ModelFacts)
            made[name] = value_facts(kind, value)
        elif isinstance(value, Facts):
            made[name] = value
        elif node.inputs[name].type.kind == "list" and value is not None:
            made[name] = tuple(value) if isinstance(value, list | tuple) else (value,)
        else:
            made[name] = str(value) if isinstance(value, Path) else value
    return node.facts.make(made)


def value_facts(kind: type[Facts], value: Mapping[str, Any]) -> Facts:
    """Facts of a value from a mapping by attribute."""
    given = dict(value)
    if "gate" in given:
        given["gates"] = (given.pop("gate"),)
    for name in ("gates", "whole"):
        if name in given:
            given[name] = tuple(given[name])
    if "transforms" in given:
        given["transforms"] = tuple(TransformFact(*each) for each in given["transforms"])
    if "size" in given:
        given["size"] = Size(*given["size"])
    return kind(**given)


def plain(value: Any) -> Any:
    """Facts as a mapping by attribute, without unknown facts."""
    if not isinstance(value, Facts):
        return value
    blank = type(value)()
    found = {f.name: getattr(value, f.name) for f in fields(value) if getattr(value, f.name) != getattr(blank, f.name)}
    if "size" in found:
        found["size"] = [found["size"].width, found["size"].height, found["size"].frames]
    for name in ("transforms", "gates", "whole"):
        if name in found:
            found[name] = [list(each) if isinstance(each, TransformFact) else each for each in found[name]]
    return found


def check_parts(node: Node, parts: Iterable[str], **known: Any) -> list[Diagnostic]:
    """The problems that the node's `check_parts` finds for a run without options."""
    assert node.node.check_parts is not None
    return list(node.node.check_parts(facts(node.node, known), frozenset(parts), {}))
