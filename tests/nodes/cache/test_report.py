"""Reports of gates: events as docs/run.schema.json has them, and the lines under the table of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers.direct import DirectRun
from helpers.gate_pipelines import FAMILIES, STEPS
from helpers.ours import Pair
from jsonschema import Draft202012Validator
from sgd.graph.contract.node import Here
from sgd.graph.runtime.record_values import clean
from sgd.nodes.cache.decisions_table import report, summary
from sgd.nodes.cache.methods.cache_dit_options import library
from sgd.nodes.cache.methods.dbcache import dbcache
from sgd.nodes.cache.methods.easycache import easycache
from sgd.nodes.cache.methods.magcache import magcache
from sgd.nodes.cache.methods.scm import scm
from sgd.nodes.cache.methods.taylorseer import taylorseer

HERE = Here("gate")
SCHEMA = json.loads((Path(__file__).parents[3] / "docs" / "run.schema.json").read_text())
LISTS = {name: Draft202012Validator(SCHEMA["properties"][name]) for name in ("gates", "gate_totals")}
RATIOS = [1.0] + [0.99 - 0.02 * ((index * 7) % 5) for index in range(STEPS - 1)]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return Pair("hunyuan-video", tmp_path_factory.mktemp("gates") / "hunyuan-video")


def record(pair, gate):
    """The entries of a record about gates."""
    run = DirectRun()
    pair.run(gate, run=run)
    kept = {f"{kind}s": [clean(data) for k, data in run.events if k == kind] for kind in ("gate", "gate_total")}
    for name, schema in LISTS.items():
        schema.validate(kept[name])
    return kept, run


MIXED = FAMILIES["hunyuan-video"].mixed
GATES = {
    "dbcache": dbcache(HERE, threshold=MIXED["dbcache"], warmup_steps=3, max_consecutive=2, max_reused=4),
    "taylorseer": taylorseer(HERE, threshold=MIXED["dbcache"], max_accumulated=0.5, stacks="separate"),
    "scm": scm(HERE, preset="fast"),
    "easycache": easycache(HERE, threshold=MIXED["easycache"], warmup_steps=2),
    "magcache": magcache(HERE, ratios=RATIOS, threshold=0.1, max_consecutive=3),
    "library": library(HERE, Fn_compute_blocks=1, max_warmup_steps=3, max_cached_steps=3),
    "prune": library(
        HERE, Fn_compute_blocks=1, max_warmup_steps=3, residual_diff_threshold=MIXED["dbcache"], cache_type="DBPrune"
    ),
}


@pytest.mark.parametrize("name", GATES)
def test_every_step_is_said_once(pair, name):
    kept, _ = record(pair, GATES[name])
    text = report(kept)
    for total in kept["gate_totals"]:
        head = f"gate gate ({GATES[name].kind}), transformer, {total['branch']}"
        head += "" if total["stack"] is None else f", stack {total['stack']}"
        [at] = [at for at, line in enumerate(text.splitlines()) if line.startswith(f"{head}:")]
        steps = ""
        for line in text.splitlines()[at + 1 :]:
            if not line.startswith("  step"):
                break
            first, _, rest = line.split(maxsplit=1)[1].partition(" ")
            last = rest.split()[1] if rest.startswith("to ") else first
            steps += str(int(" computed " in f"{line} ")) * (int(last) - int(first) + 1)
        assert steps == total["steps"]


def test_a_record_without_gates_says_nothing():
    assert report({"gates": []}) == ""
    assert summary({"gates": []}) == ""


def total(gate, branch, computed, reused, **other):
    known = {"gate": gate, "method": "dbcache", "component": "transformer", "branch": branch, "node": "l.predict"}
    return {**known, "computed": computed, "reused": reused, "ratio": reused / (computed + reused), **other}


def test_the_summary_has_a_line_for_each_gate():
    one = [total("a", "positive", 13, 7), total("a", "negative", 15, 5, clip=0), total("a", "negative", 10, 10, clip=1)]
    assert summary({"gate_totals": one}) == (
        "gate a (dbcache): 22 of 60 evaluations reused (37%): positive 7 of 20, negative 15 of 40"
    )
    assert summary({"gate_totals": one[:1]}) == "gate a (dbcache): 7 of 20 evaluations reused (35%)"
    two = [total("a", "positive", 1, 1), total("a", "positive", 3, 1, component="transformer_2"), total("b", "x", 4, 0)]
    assert summary({"gate_totals": two}).splitlines() == [
        "gate a (dbcache): 2 of 6 evaluations reused (33%): transformer positive 1 of 2, transformer_2 positive 1 of 4",
        "gate b (dbcache): 0 of 4 evaluations reused (0%)",
    ]


def test_the_option_chooses_the_summary_or_all_decisions(pair):
    from sgd.nodes import standard_library as library

    kept, _ = record(pair, GATES["dbcache"])
    assert library.table_section({**kept, "options": {}}) == summary(kept) != ""
    assert library.table_section({**kept, "options": {"gates": True}}) == report(kept)


def test_the_share_of_computed_evaluations_is_that_of_all_branches(pair):
    from sgd.nodes import standard_library as library

    kept, _ = record(pair, GATES["dbcache"])
    decided = [decision["computed"] for decision in kept["gates"]]
    assert 0 < sum(decided) < len(decided)
    assert library.computed_share(kept) == sum(decided) / len(decided)
    assert library.computed_share({"gate_totals": []}) is None


def test_a_model_that_makes_no_numbers_is_reported_and_computes(tmp_path):
    pair = Pair("wan", tmp_path)
    with torch.no_grad():
        pair.model.component("transformer").blocks[0].ffn.net[2].weight.fill_(float("nan"))
    kept, run = record(pair, dbcache(HERE, threshold=0.5, warmup_steps=3, front_blocks=1))
    assert {total["steps"] for total in kept["gate_totals"]} == {"1" * STEPS}
    assert "nan nan" in report(kept)
    [warning] = run.warnings
    assert "reused nothing" in warning
    assert "nan" not in warning
