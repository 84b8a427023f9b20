"""`@gate_node`: the place of each diagnostic, and facts that are known in part."""

from dataclasses import fields
from pathlib import Path

import pytest
from helpers import node_facts
from sgd.graph.contract.errors import NodeError
from sgd.graph.contract.facts import UNKNOWN
from sgd.graph.contract.node import Here
from sgd.nodes.cache.cache_dit.engine_options import FILE, MASK, POLICY
from sgd.nodes.cache.methods.cache_dit_options import library
from sgd.nodes.cache.methods.custom_gate import gate
from sgd.nodes.cache.methods.dbcache import dbcache
from sgd.nodes.cache.methods.fora import fora
from sgd.nodes.cache.methods.magcache import magcache
from sgd.nodes.cache.methods.scm import scm
from sgd.nodes.cache.methods.taylorseer import taylorseer
from sgd.nodes.cache.methods.teacache import teacache

TABLE = Path("table.json")
MASKS = {"threshold": 0.1, "rule": "change", "signal": "front"}


def facts_of(node, **values):
    """Facts of a node whose other parameters have their defaults."""
    defaults = {name: parameter.default for name, parameter in node.node.inputs.items()}
    known = {name: value for name, value in (defaults | values).items() if value is not UNKNOWN}
    return node_facts.facts(node.node, known)


@pytest.mark.parametrize(
    ("node", "values", "parameter"),
    [
        (dbcache, {"policy": "static"}, "policy"),
        (taylorseer, {"policy": "static"}, "policy"),
        (dbcache, {"preset": "fast", "mask": "10"}, "preset"),
        (dbcache, {"compute_bins": [2], "reuse_bins": [1], "mask": "10"}, "compute_bins"),
        (dbcache, {"compute_bins": [2]}, "compute_bins"),
        (dbcache, {"reuse_bins": [2]}, "reuse_bins"),
        (scm, {"compute_bins": [], "reuse_bins": [1]}, "compute_bins"),
        (scm, {"compute_bins": [1], "reuse_bins": []}, "reuse_bins"),
        (scm, {"compute_bins": [0], "reuse_bins": []}, "reuse_bins"),
        (scm, {"compute_bins": [0], "reuse_bins": [1]}, "compute_bins"),
        (scm, {"compute_bins": [1], "reuse_bins": [0]}, "compute_bins"),
        (scm, {"mask": "12"}, "mask"),
        (scm, {"threshold": 0.1}, "policy"),
        (scm, {"max_consecutive": 2}, "policy"),
        (scm, {"max_reused": 2}, "policy"),
        (teacache, {"coefficients": [1.0], "table": TABLE}, "coefficients"),
        (teacache, {"retention_steps": True, "signal": "modulated"}, "signal"),
        (teacache, {"coefficients": []}, "coefficients"),
        (magcache, {"ratios": [1.0], "table": TABLE}, "ratios"),
        (magcache, {"ratios": []}, "ratios"),
        (gate, {**MASKS, "rule": "polynomial"}, "rule"),
        (gate, {**MASKS, "coefficients": [1.0]}, "coefficients"),
        (gate, {**MASKS, "ratios": [1.0]}, "ratios"),
        (gate, {**MASKS, "clamp": True}, "clamp"),
        (gate, {**MASKS, "threshold": None}, "rule"),
        (gate, {"rule": "mask"}, "rule"),
        (gate, {"rule": "mask", "mask": "10", "policy": "dynamic"}, "policy"),
        (gate, {"rule": "mask", "mask": "10", "max_consecutive": 1}, "max_consecutive"),
        (gate, {"rule": "mask", "mask": "10", "max_reused": 1}, "max_reused"),
        (gate, {"rule": "mask", "mask": "10", "threshold": 0.1}, "threshold"),
        (gate, {"rule": "mask", "mask": "10", "max_accumulated": 1.0}, "max_accumulated"),
    ],
    ids=lambda value: value.node.name if hasattr(value, "node") else str(value),
)
def test_a_diagnostic_stands_at_its_parameter(node, values, parameter):
    problem, *_ = node.node.check(facts_of(node, **values))
    assert (problem.code, problem.parameter, problem.help) == ("bad-value", parameter, None)
    assert node.node.describe(facts_of(node, **values)) is None
    with pytest.raises(NodeError) as error:
        node(Here("loop.gate"), **values)
    assert error.value.diagnostic == problem


def test_the_signature_is_the_list_of_parameters_and_of_facts():
    assert list(fora.node.inputs) == ["every", "order", "front_blocks", "back_blocks", "warmup_steps"]
    assert [field.name for field in fields(fora.node.facts.cls)] == list(fora.node.inputs)
    assert fora.node.supplied == {"here": "here"}
    assert fora(Here("loop.gate"), every=3).name == "loop.gate"


def test_a_gate_with_an_unknown_parameter_is_not_known():
    (known,) = fora.node.describe(facts_of(fora, every=3)).gates
    assert known == fora(Here(), every=3)
    assert fora.node.describe(facts_of(fora, every=UNKNOWN)) is None
    assert not list(scm.node.check(facts_of(scm, mask="12", order=UNKNOWN)))


@pytest.mark.parametrize(
    ("values", "parameters"),
    [
        ({"taylorseer_order": 2, "residual_diff_threshold": UNKNOWN}, ["taylorseer_order"]),
        ({"taylorseer_order": 2, "enable_taylorseer": UNKNOWN}, []),
        ({"taylorseer_order": UNKNOWN}, []),
        ({"taylorseer_order": 2, FILE: UNKNOWN}, []),
        ({"enable_dmd": True, "enable_foca": True, FILE: UNKNOWN}, ["enable_foca"]),
        ({"enable_dmd": True, "enable_foca": UNKNOWN}, []),
        ({"non_prune_block_ids": [1], "cache_type": UNKNOWN}, []),
        ({"non_prune_block_ids": UNKNOWN}, []),
        ({MASK: [1, 0], POLICY: UNKNOWN}, []),
        ({MASK: [1, 2], POLICY: UNKNOWN}, [MASK]),
        ({"steps_computation_policy": "static", POLICY: UNKNOWN}, []),
        ({"force_refresh_step_policy": "once", "force_refresh_step_hint": UNKNOWN}, []),
        ({"cfg_compute_first": True, FILE: UNKNOWN}, ["cfg_compute_first"]),
        ({FILE: "none.yaml", "cache_type": UNKNOWN}, [FILE]),
    ],
    ids=str,
)
def test_cache_dit_options_are_checked_as_far_as_they_are_known(values, parameters):
    facts = facts_of(library, **values)
    assert [problem.parameter for problem in library.node.check(facts)] == parameters
    assert library.node.describe(facts) is None
