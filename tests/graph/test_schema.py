"""The JSON Schema for editors: valid, agreeing with the checker where it can, and documented."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest
from helpers import toys
from sgd.graph.contract.errors import Problems
from sgd.graph.contract.source_spans import Source
from sgd.graph.contract.workflow_folders import bundled_workflows
from sgd.graph.contract.yaml_reader import parse
from sgd.graph.language.registry import standard
from sgd.graph.language.schema import schema

LIBRARY = toys.library()
SCHEMA = schema(LIBRARY)
VALIDATOR = jsonschema.Draft7Validator(SCHEMA)
FIXTURES = Path(__file__).parent / "fixtures"

# Fixtures whose mistake stands in one place, so that a schema can see it.
CAUGHT = [
    "bad-value.expect",
    "bad-value.expect-form",
    "bad-value.expect-nothing",
    "unknown-key.expect",
    "foreign-file.api",
    "bad-value.gate-values",
    "bad-value.literals",
    "bad-value.standard-library",
    "bad-value.structure",
    "missing-key.empty",
    "missing-key.everywhere",
    "missing-key.list",
    "missing-key.nodes",
    "missing-key.version",
    "missing-parameter.several",
    "shadowed-name.everywhere",
    "bad-value.inputs",
    "unknown-key.everywhere",
    "unknown-node-type.typo",
    "unknown-parameter.typo",
    "unsupported.mask",
    "version.newer",
    "version.text",
    "unsupported.offload",
]

# These need more than one place, the command line, other files, or the YAML itself.
MISSED = [
    "bad-value.expect-output",
    "bad-value.composite",
    "bad-value.files",
    "bad-value.gate",
    "bad-value.given",
    "bad-value.loops",
    "bad-value.references",
    "composite-not-found.several",
    "composite-recursion.itself",
    "composite-recursion.mutual",
    "cycle.composite",
    "cycle.loop",
    "cycle.nodes",
    "duplicate-key.twice",
    "missing-input.required",
    "type-mismatch.composite",
    "type-mismatch.conditioning",
    "type-mismatch.plain",
    "unavailable.backend",
    "unavailable.set",
    "unknown-input.none",
    "unknown-input.typo",
    "unknown-parameter.set",
    "unknown-reference.inside",
    "unknown-reference.name",
    "unknown-reference.others",
    "unknown-reference.port",
    "unused-node.several",
    "version.part",
    "wired-parameter.edges",
    "yaml-syntax.part",
    "yield-mismatch.names",
    "yield-mismatch.types",
    "unsupported.gate",
]


def plain(path: Path):
    root, _ = parse(Source(path.name, path, path.read_text()))
    return root.plain() if root is not None else None


def test_schema_is_valid_draft_7():
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "http://json-schema.org/draft-07/schema#"


@pytest.mark.parametrize("path", sorted(bundled_workflows().glob("**/*.yaml")), ids=lambda p: p.name)
def test_bundled_workflows_are_valid(path):
    assert list(jsonschema.Draft7Validator(schema(standard())).iter_errors(plain(path))) == []


@pytest.mark.parametrize("case", CAUGHT)
def test_mistakes_that_a_schema_catches(case):
    assert not VALIDATOR.is_valid(plain(FIXTURES / f"{case}.yaml"))


@pytest.mark.parametrize("case", MISSED)
def test_the_schema_accepts_files_whose_faults_it_cannot_see(case):
    errors = [e.message for e in VALIDATOR.iter_errors(plain(FIXTURES / f"{case}.yaml"))]
    assert errors == []


def test_every_fixture_is_in_one_list():
    broken = {p.stem for p in FIXTURES.glob("yaml-syntax.*.yaml")} - {"yaml-syntax.part"}
    assert sorted([*CAUGHT, *MISSED]) == sorted({p.stem for p in FIXTURES.glob("*.yaml")} - broken)


def test_yaml_that_no_schema_sees():
    for path in FIXTURES.glob("yaml-syntax.*.yaml"):
        try:
            _, problems = parse(Source(path.name, path, path.read_text()))
        except Problems as error:
            problems = error.diagnostics
        assert bool(problems) == (path.stem != "yaml-syntax.part")


def test_every_node_type_and_parameter_is_described():
    for name, type in LIBRARY.nodes.items():
        found = SCHEMA["definitions"][f"node:{name}"]
        assert found["description"] == type.summary
        assert list(found["properties"]["with"]["properties"]) == list(type.inputs)
        for parameter, entry in found["properties"]["with"]["properties"].items():
            assert type.inputs[parameter].doc, (name, parameter)
            assert type.inputs[parameter].doc in entry["description"]


def allowed(value, parameter, node="toy.plain") -> bool:
    return VALIDATOR.is_valid({"sgd": 1, "nodes": {"o": {"uses": node, "with": {parameter: value}}}})


@pytest.mark.parametrize(
    ("parameter", "good", "bad"),
    [
        ("text", ["", "a", "$x", "${x}"], [5, ["a"], {}]),
        ("whole", [0, 10, "$x", "${x}"], [11, -1, 1.5, "a", "5", True]),
        ("ratio", [1, 0.5, "$x.y"], [0, -1, "a"]),
        ("flag", [True, "$x"], ["on", 1, "true"]),
        ("mode", ["fast", "$x"], ["quick", 1]),
        ("level", ["low", "$x"], ["mid"]),
        ("names", ["a", ["a", "$x"], []], [1, [1], {}]),
        ("sizes", [1, [1, 2], ["$x", 1], "$x"], ["a", [1.5], [None]]),
        ("modes", ["fast", ["fast", "slow"]], ["quick", ["quick"]]),
        ("maybe", [None, 1, "$x"], ["a", 1.5]),
        ("file", ["a.png", "$x"], [1, ["a.png"]]),
    ],
)
def test_values_of_parameters(parameter, good, bad):
    assert [v for v in good if not allowed(v, parameter)] == []
    assert [v for v in bad if allowed(v, parameter)] == []


def test_values_of_ports():
    for value in ("$x", "$x.y"):
        assert allowed(value, "thing", "toy.pair")
    for wrong in ("x", "${x}", 5, None, ["$x"], "$x.y.z", "$é"):
        assert not allowed(wrong, "thing", "toy.pair")
    assert allowed(["$x", "$y"], "things", "toy.sum")
    assert allowed(None, "thing", "toy.maybe")


def test_names_are_those_of_the_language():
    def names(**file):
        return VALIDATOR.is_valid({"sgd": 1, "nodes": {}, **file})

    assert names(outputs={"a_1": "$x"})
    assert not names(outputs={"a b": "$x"})
    assert not names(inputs={"name": {"type": "int"}})
    assert not names(nodes={"index": {"uses": "toy.number"}})
    assert not names(nodes={"é": {"uses": "toy.number"}})
    assert names(inputs={"x": {"type": "list[Thing]"}, "y": {"enum": [1, "a"]}})
    assert not names(inputs={"x": {"type": "Thingy"}})
    assert not names(inputs={"x": {"type": "int", "enum": [1]}})
