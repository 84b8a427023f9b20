"""The JSON Schema (draft 7) of workflow files for the installed nodes, for completion and checks in editors."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError

from ..contract.node import Input, NodeType
from ..contract.ports import PLAIN, Type, plain
from .document import NAME, RESERVED, USES, VERSION
from .registry import Library

REFERENCE = {
    "type": "string",
    "pattern": rf"^\${NAME.pattern}(\.{NAME.pattern})?$",
    "description": "A reference: $name or $name.port",
}
INTERPOLATED = {"type": "string", "pattern": r"\$", "description": "A string with ${name} in it"}
NAMES = {"pattern": f"^(?!({'|'.join(RESERVED)})$){NAME.pattern}$"}
INPUT_NAMES = {"pattern": f"^(?!({'|'.join([*RESERVED, USES])})$){NAME.pattern}$"}

POSITIVE = {"type": "number", "exclusiveMinimum": 0}
EXPECT = {
    "type": "object",
    "description": "Limits for a run; `sgd exec --strict` fails if one is not kept",
    "minProperties": 1,
    "properties": {
        "seconds": {**POSITIVE, "description": "The most seconds that a run may take, from the start of its process"},
        "peak_gib": {**POSITIVE, "description": "The most memory at once, in GiB"},
        "psnr": {
            "type": "object",
            "description": "How like a reference an output must be",
            "required": ["min", "output", "reference"],
            "properties": {
                "min": {**POSITIVE, "description": "The least PSNR, in dB"},
                "output": {"type": "string", "description": "The name of an output that is a picture or a clip"},
                "reference": {"type": "string", "description": "A picture or clip, relative to this file"},
            },
            "additionalProperties": False,
        },
    },
    "additionalProperties": False,
}
RUN = {
    "type": "object",
    "description": "How a run of the file goes; the command line wins",
    "properties": {
        "parallel": {
            "type": "object",
            "description": "How the processes of a run are arranged, as `--parallel` says it",
            "properties": {
                "branches": {"enum": [1, 2], "description": "Evaluations of a step that are computed at once"},
                "ulysses": {"type": "integer", "minimum": 1, "description": "Processes that exchange heads"},
                "ring": {"type": "integer", "minimum": 1, "description": "Processes that gather keys and values"},
            },
            "additionalProperties": False,
        },
    },
    "additionalProperties": False,
}


def schema(library: Library) -> dict[str, Any]:
    """Build the JSON Schema. Node types and their parameters appear with their documentation."""
    nodes = {name: node(library.nodes[name]) for name in sorted(library.nodes)}
    definitions: dict[str, Any] = {
        "entry": {
            "type": "object",
            "if": {"anyOf": [{"required": [key]} for key in ("for", "body", "carry", "yield")]},
            "then": {"$ref": "#/definitions/loop"},
            "else": {"$ref": "#/definitions/node"},
        },
        "node": {
            "type": "object",
            "required": ["uses"],
            "properties": {
                "uses": {
                    "anyOf": [
                        {"enum": list(nodes), "description": "A node type"},
                        {
                            "type": "string",
                            "pattern": r"(^\.{0,2}/|\.ya?ml$|:)",
                            "description": "Another workflow file",
                        },
                    ]
                },
                "with": {"type": "object"},
                "about": {"type": "string"},
            },
            "additionalProperties": False,
            "allOf": [
                {
                    "if": {"properties": {"uses": {"const": name}}, "required": ["uses"]},
                    "then": {"$ref": f"#/definitions/node:{name}"},
                }
                for name in nodes
            ],
        },
        "loop": {
            "type": "object",
            "required": ["for", "body"],
            "properties": {
                "for": {"type": "object", "minProperties": 1, "propertyNames": NAMES},
                "carry": {"type": "object", "propertyNames": NAMES},
                "body": {"$ref": "#/definitions/entries"},
                "yield": {"type": "object", "propertyNames": {"pattern": f"^{NAME.pattern}$"}},
                "about": {"type": "string"},
            },
            "additionalProperties": False,
        },
        "entries": {
            "type": "object",
            "propertyNames": NAMES,
            "additionalProperties": {"$ref": "#/definitions/entry"},
        },
        "input": input_schema(library),
        **{f"node:{name}": found for name, found in nodes.items()},
    }
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "sgd workflow",
        "type": "object",
        "required": ["sgd", "nodes"],
        "properties": {
            "sgd": {"const": VERSION, "description": "Version of the language"},
            "name": {"type": "string", "description": "Name of the workflow; the default is the file's name"},
            "about": {"type": "string"},
            "inputs": {
                "type": "object",
                "propertyNames": INPUT_NAMES,
                "additionalProperties": {"$ref": "#/definitions/input"},
            },
            "nodes": {"$ref": "#/definitions/entries"},
            "outputs": {
                "type": "object",
                "propertyNames": {"pattern": f"^{NAME.pattern}$"},
                "additionalProperties": REFERENCE,
            },
            "expect": EXPECT,
            "run": RUN,
        },
        "additionalProperties": False,
        "definitions": definitions,
    }


def input_schema(library: Library) -> dict[str, Any]:
    """Build the schema of an entry of `inputs`."""
    names = "|".join([*PLAIN, *sorted(library.ports)])
    return {
        "type": "object",
        "properties": {
            "type": {
                "type": "string",
                "anyOf": [
                    {"enum": [*PLAIN, *(f"list[{p}]" for p in PLAIN), *sorted(library.ports)]},
                    {"pattern": rf"^(list\[)*({names})\]*$"},
                ],
            },
            "enum": {"type": "array", "minItems": 1, "items": {"type": ["string", "number"]}},
            "default": {},
            "min": {"type": "number"},
            "max": {"type": "number"},
            "about": {"type": "string"},
        },
        "oneOf": [{"required": ["type"]}, {"required": ["enum"]}],
        "additionalProperties": False,
    }


def node(type: NodeType) -> dict[str, Any]:
    """Build the schema for a use of one node type. Required parameters come first."""
    required = [name for name, each in type.inputs.items() if each.required]
    properties = {name: parameter(each) for name, each in type.inputs.items()}
    inner = {"type": "object", "properties": properties, "additionalProperties": False}
    found: dict[str, Any] = {"description": type.summary, "properties": {"with": inner}}
    if required:
        inner["required"] = required
        found["required"] = ["with"]
    return found


def parameter(parameter: Input) -> dict[str, Any]:
    """Build the schema of a parameter: a literal of its type, a reference, or a string with `${name}` in it."""
    about = {"description": parameter.doc} if parameter.doc else {}
    if parameter.type.kind == "var":
        literal = {"type": ["string", "number", "boolean"]}
        return {**about, "anyOf": [REFERENCE, literal], "description": _typed_description(parameter)}
    if parameter.is_port:
        many = [{"type": "array", "items": REFERENCE}] if parameter.type.kind == "list" else []
        null = [] if parameter.required else [{"type": "null"}]
        return {**about, "anyOf": [REFERENCE, *many, *null], "description": _typed_description(parameter)}
    null = [] if parameter.required and not parameter.optional else [{"type": "null"}]
    default = {} if parameter.required or parameter.default is None else {"default": plain(parameter.default)}
    return {
        **about,
        **default,
        "anyOf": [*_literals(parameter.type, parameter.annotation), REFERENCE, INTERPOLATED, *null],
    }


def _typed_description(parameter: Input) -> str:
    return f"{parameter.type}: {parameter.doc}" if parameter.doc else str(parameter.type)


def _literals(type: Type, annotation: Any) -> list[dict[str, Any]]:
    if type.kind == "list":
        assert type.item is not None
        single = _literals(type.item, None)
        items = {"anyOf": [*single, REFERENCE, INTERPOLATED]}
        return [*single, {"type": "array", "items": items}]
    if type.kind == "enum":
        return [{"enum": list(type.choices)}]
    kinds = {"str": "string", "path": "string", "int": "integer", "float": "number", "bool": "boolean"}
    found: dict[str, Any] = {"type": kinds[type.kind]} if type.kind in kinds else {}
    limits = bounds(annotation) if annotation is not None and type.kind in ("int", "float") else {}
    return [{**found, **limits}]


def bounds(annotation: Any) -> dict[str, Any]:
    """Build the schema for the bounds of a number, from pydantic's constraints."""
    try:
        found = TypeAdapter(annotation).json_schema()
    except (PydanticInvalidForJsonSchema, PydanticSchemaGenerationError):
        return {}
    found = next((f for f in found.get("anyOf", [found]) if f.get("type") in ("integer", "number")), found)
    names = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
    return {name: found[name] for name in names if name in found}
