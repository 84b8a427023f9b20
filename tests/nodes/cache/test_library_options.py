"""The options of `cache.library`: those that the cache-dit package has, and what is wrong with others."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import cache_dit
import pytest
import yaml
from sgd.graph.contract.errors import NodeError
from sgd.nodes.cache.cache_dit import engine_options
from sgd.nodes.cache.cache_dit.engine_options import CALIBRATORS, ELSEWHERE, FILE, MASK, NEEDS, POLICY, PRUNING, gather
from sgd.nodes.cache.gate_place import Place
from sgd.nodes.cache.methods.cache_dit_options import library
from sgd.nodes.cache.resolved_gate import resolve
from sgd.nodes.families import by_name

INPUTS = library.node.inputs
READER = importlib.import_module("cache_dit.caching.load_configs")
WORKFLOW = """sgd: 1
name: t
nodes:
  model: {uses: model.load, with: {source: SOURCE}}
  text: {uses: text.encode, with: {model: $model, prompt: a, max_length: 16}}
  noise: {uses: latents.noise, with: {model: $model, width: 32, height: 32, frames: 9}}
  schedule: {uses: schedule.make, with: {model: $model, steps: 10}}
  gate: {uses: cache.library, with: {OPTIONS}}
  loop:
    for: {step: $schedule}
    carry: {state: $noise}
    body:
      split: {uses: cfg.split, with: {conditioning: $text, scale: 4.0}}
      predict:
        uses: denoiser.predict
        with: {model: $model, latents: $state, step: $step, branches: $split, gate: $gate}
      guide: {uses: cfg.merge, with: {predictions: $predict, branches: $split}}
      next: {uses: schedule.step, with: {schedule: $schedule, step: $step, latents: $state, velocity: $guide}}
    yield: {state: $next}
outputs: {latents: $loop}
"""


def keys(function):
    """The keys that a reader of configurations looks up."""
    source = inspect.getsource(function)
    return set(re.findall(r'\bkwargs\.get\("(\w+)"', source)) | set(re.findall(r'"(\w+)" not in kwargs', source))


def fields(cls):
    return {field.name for field in dataclasses.fields(cls)}


def test_the_options_are_those_of_the_package():
    read = keys(READER.load_cache_options_from_dict)
    wanted = fields(cache_dit.DBCacheConfig) | fields(cache_dit.DBPruneConfig) | read
    assert set(INPUTS) - {FILE, POLICY} == wanted
    assert fields(cache_dit.DBPruneConfig) - fields(cache_dit.DBCacheConfig) == set(PRUNING)
    assert {name for name in read if re.fullmatch("enable_[a-z]+", name)} == set(CALIBRATORS)


def test_the_sections_are_those_of_the_package():
    looked_up = set()
    for name in ("load_parallelism_config", "load_attn_backend_config", "load_quantize_config"):
        source = inspect.getsource(getattr(READER, name))
        looked_up |= set(re.findall(r'"(\w+)" (?:not )?in \w+', source))
    assert set(ELSEWHERE) <= looked_up
    assert set(cache_dit.load_configs({"cache_config": {}})) == {"cache_config", "calibrator_config", *ELSEWHERE}


def test_defaults_are_those_of_the_package():
    config = cache_dit.DBCacheConfig()
    assert config.Fn_compute_blocks == engine_options.FRONT
    assert config.residual_diff_threshold == engine_options.THRESHOLD
    assert config.max_warmup_steps == engine_options.WARMUP
    calibrators = (
        cache_dit.TaylorSeerCalibratorConfig,
        cache_dit.DMDCalibratorConfig,
        cache_dit.FoCaCalibratorConfig,
    )
    for name in set(INPUTS) - {FILE, POLICY, MASK}:
        told = re.search(r"\((\S+?)\)\.?$", INPUTS[name].doc)
        if told is None or told[1] in ("false", "true"):
            continue
        for cls in (cache_dit.DBCacheConfig, cache_dit.DBPruneConfig, *calibrators):
            if name in fields(cls) and name != "calibrator_cache_type":
                assert yaml.safe_load(told[1]) == getattr(cls(), name) or float(told[1]) == getattr(cls(), name), name


def test_every_option_reaches_the_package():
    """Each alone, beside what it needs: the package's configuration is not the one that it makes without."""
    values = {
        bool: True,
        "cache_type": "DBPrune",
        "enable_separate_cfg": False,
        "cfg_diff_compute_separate": False,
        MASK: [1, 0],
        "steps_computation_policy": "static",
        "force_refresh_step_policy": "repeat",
        "non_prune_block_ids": [1],
        "dmd_svd_precision": "high",
    }
    for name in set(INPUTS) - {FILE, POLICY}:
        kind = str(INPUTS[name].type)
        value = values.get(name, True if kind == "bool" else "hidden_states" if "|" in kind else 3)
        around = {"cache_type": "DBPrune"} if name in PRUNING else {}
        around |= dict.fromkeys(NEEDS.get(name, ())[:1], True)
        value = not cache_dit_default(name, around) if kind == "bool" and name not in values else value
        without = cache_dit.load_configs({"cache_config": dict(around)})
        assert cache_dit.load_configs({"cache_config": {**around, name: value}}) != without, name
        if name in NEEDS:  # and without that, the package drops it
            assert cache_dit.load_configs({"cache_config": {name: value}}) == cache_dit.load_configs(
                {"cache_config": {}}
            )


def cache_dit_default(name, around):
    made = cache_dit.load_configs({"cache_config": dict(around)})
    if name in CALIBRATORS:
        return False
    if name.startswith("enable_encoder"):
        return made["calibrator_config"].enable_encoder_calibrator
    return getattr(made["cache_config"], name)


def problems(**known):
    return [(p.code, p.parameter) for p in gather(INPUTS, {n: i.default for n, i in INPUTS.items()} | known)[1]]


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"taylorseer_order": 2}, ("bad-value", "taylorseer_order")),
        ({"enable_taylorseer": False, "taylorseer_order": 2}, ("bad-value", "taylorseer_order")),
        ({"enable_taylorseer": True, "dmd_history": 5}, ("bad-value", "dmd_history")),
        ({"enable_taylorseer": True, "calibrator_cache_type": "residual"}, ("bad-value", "calibrator_cache_type")),
        ({"enable_taylorseer": True, "enable_dmd": True}, ("bad-value", "enable_dmd")),
        ({"non_prune_block_ids": [1]}, ("bad-value", "non_prune_block_ids")),
        (
            {"cache_type": "DBPrune", "max_accumulated_residual_diff_threshold": 1.0},
            ("unsupported", "max_accumulated_residual_diff_threshold"),
        ),
        ({"steps_computation_policy": "static"}, ("bad-value", "steps_computation_policy")),
        ({"force_refresh_step_policy": "repeat"}, ("bad-value", "force_refresh_step_policy")),
        ({MASK: [1, 2, 0]}, ("bad-value", MASK)),
        ({MASK: []}, ("bad-value", MASK)),
        ({MASK: [1, 0], POLICY: "fast"}, ("bad-value", POLICY)),
        ({"cfg_compute_first": True}, ("unsupported", "cfg_compute_first")),
        ({"cfg_diff_compute_separate": False}, ("unsupported", "cfg_diff_compute_separate")),
    ],
    ids=str,
)
def test_options_that_do_not_go_together(options, found):
    assert problems(**options) == [found]
    with pytest.raises(NodeError):
        library("gate", **options)


def test_a_calibrator_that_is_off_may_have_its_switches_off():
    assert problems(enable_taylorseer=False, enable_encoder_taylorseer=False) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cache_config:\n  enable_sperate_cfg: true\n", ":2: cache-dit has no option `enable_sperate_cfg`"),
        ("Fn_compute_block: 1\n", ":1: cache-dit has no option `Fn_compute_block`"),
        ("cache_config: {}\ncache: {}\n", ":2: cache-dit has no option `cache`"),
        ("cache_config:\n  Fn_compute_blocks: 0\n", ":2: `Fn_compute_blocks`: 0 is out of bounds"),
        ("cache_config:\n  residual_diff_threshold: -0.1\n", ":2: `residual_diff_threshold`: -0.1 is out of bounds"),
        ("cache_config:\n  residual_diff_threshold: high\n", ':2: `residual_diff_threshold`: "high" is not a number'),
        ("cache_config:\n  steps_computation_mask: quick\n", ':2: `steps_computation_mask`: "quick" is not one of'),
        ("cache_config:\n  steps_computation_mask: 1101\n", "a mask is a list of 1"),
        ("cache_config:\n  residual_diff_threshold: -0.1\n", "`residual_diff_threshold`: -0.1 is out of bounds"),
        ("cache_config:\n  residual_diff_threshold: .inf\n", "`residual_diff_threshold`: inf is not a finite number"),
        ("cache_config: [1]\n", "`cache_config` is not a mapping of options"),
        ("- 1\n", "holds no mapping of options"),
        ("", "holds no mapping of options"),
        ("a: [1\n", ":"),
        ("cache_config: {}\nparallelism_config: {ulysses_size: 2}\n", ":2: `parallelism_config` is not about caching"),
        ("attention_backend: flash\n", ":1: `attention_backend` is not about caching"),
        ("cache_config:\n  taylorseer_order: 2\n", "`taylorseer_order` does nothing without"),
        ("? {a: 1}\n: 2\n", ":1: "),
        ("cache_config: {}\ncache_config: {}\n", ":2: "),
        ("cache_config: !!python/object:os.system {}\n", ":1: "),
    ],
)
def test_problems_of_a_file(tmp_path, text, message):
    path = tmp_path / "cache.yaml"
    path.write_text(text)
    found = gather(INPUTS, {FILE: path})[1]
    assert [problem.parameter for problem in found] == [FILE]
    assert message in found[0].message
    with pytest.raises(NodeError):
        library("gate", file=path)


def test_a_file_that_is_not_there(tmp_path):
    (problem,) = gather(INPUTS, {FILE: tmp_path / "none.yaml"})[1]
    assert problem.message.count("none.yaml") == 1
    assert "cannot read" in problem.message
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    (problem,) = gather(INPUTS, {FILE: tmp_path / "bytes.yaml"})[1]
    assert "UTF-16" in problem.message


@pytest.mark.parametrize("nested", [True, False])
def test_options_of_a_file_are_those_that_the_package_reads(tmp_path, nested):
    options = {
        "cache_type": "DBPrune",
        "Fn_compute_blocks": 2,
        "residual_diff_threshold": 0.2,
        "non_prune_block_ids": [0, 5],
        "max_cached_steps": None,
        "enable_dmd": True,
        "dmd_ridge": 1e-3,
    }
    path = tmp_path / "cache.yaml"
    path.write_text(json.dumps({"cache_config": options} if nested else options))
    made = library("gate", file=path)
    assert cache_dit.load_configs({"cache_config": dict(made.options)}) == cache_dit.load_configs(str(path))
    assert library("gate", file=path, Fn_compute_blocks=3).options["Fn_compute_blocks"] == 3


def test_a_number_that_the_package_reads_as_text_is_a_number(tmp_path):
    """`1e-3` is text in YAML 1.1, which the package reads."""
    path = tmp_path / "cache.yaml"
    path.write_text("cache_config: {residual_diff_threshold: 1e-3}\n")
    assert cache_dit.load_configs(str(path))["cache_config"].residual_diff_threshold == "1e-3"
    assert library("gate", file=path).options == {"residual_diff_threshold": 1e-3}


def test_a_policy_in_a_file_gives_the_mask_of_the_package(tmp_path):
    path = tmp_path / "cache.yaml"
    path.write_text("cache_config: {steps_computation_mask: fast, num_inference_steps: 30, Fn_compute_blocks: 1}\n")
    place = Place(by_name("wan"), {}, None, 30)
    made = resolve(library("gate", file=path), place)
    wanted = cache_dit.load_configs(str(path))["cache_config"].steps_computation_mask
    assert made.mask.digits == "".join(map(str, wanted))
    assert library("gate", file=path, steps_computation_mask=[1] * 30).options[MASK] == [1] * 30


@pytest.mark.parametrize(
    ("options", "steps", "family", "message"),
    [
        ({}, 10, "wan", "8 first and 0 last blocks at every step, but there are 6 blocks"),
        ({"Fn_compute_blocks": 5, "Bn_compute_blocks": 1}, 10, "wan", "there are 6"),
        ({"Fn_compute_blocks": 6}, 10, "hunyuan-video", "there are 6"),
        ({"Fn_compute_blocks": 12}, 10, "flux", "there are 12"),
        ({"Fn_compute_blocks": 1, "num_inference_steps": 28}, 10, "wan", "for 28 steps"),
        ({"Fn_compute_blocks": 1, MASK: [1, 0]}, 10, "wan", "has 2 entries, and the loop takes 10"),
        ({"Fn_compute_blocks": 1, MASK: [0, 1]}, 2, "wan", "reuses the first step"),
        ({"Fn_compute_blocks": 1, POLICY: "fast"}, 7, "wan", "8 steps and more"),
    ],
)
def test_options_that_do_not_suit_a_model(options, steps, family, message):
    lists = by_name(family).blocks.lists.values()
    place = Place(by_name(family), {"transformer": dict.fromkeys(lists, 6)}, None, steps)
    with pytest.raises(NodeError, match=message) as problem:
        resolve(library("gate", **options), place)
    assert problem.value.diagnostic.code == "bad-value"


def test_six_of_twelve_blocks_may_be_first_where_they_are_one_list():
    place = Place(by_name("flux"), {"transformer": {"num_layers": 6, "num_single_layers": 6}}, None, 10)
    assert resolve(library("gate", Fn_compute_blocks=6), place).front == 6


def sgd(*words, cwd):
    code = (
        "import sys; from sgd.graph.cli.main import main; code = main(sys.argv[1:]);"
        "print('torch' in sys.modules, 'cache_dit' in sys.modules, file=sys.stderr); sys.exit(code)"
    )
    return subprocess.run([sys.executable, "-c", code, *words], cwd=cwd, capture_output=True, text=True, timeout=120)


def write(folder: Path, source: Path, options: str):
    (folder / "w.yaml").write_text(WORKFLOW.replace("SOURCE", str(source)).replace("OPTIONS", options))


@pytest.mark.slow
def test_check_and_plan_load_no_more_than_they_need(tmp_path, wan_folder):
    (tmp_path / "cache.yaml").write_text("cache_config: {Fn_compute_blocks: 1, max_warmup_step: 3}\n")
    write(tmp_path, wan_folder, "file: cache.yaml")
    made = sgd("check", "w.yaml", "--json", cwd=tmp_path)
    (problem,) = json.loads(made.stdout)
    assert (problem["code"], problem["line"]) == ("unknown-key", 8)
    assert "max_warmup_step`" in problem["message"]
    assert "max_warmup_steps" in problem["help"]
    assert made.stderr.split() == ["False", "False"]
    # In the file itself a typing error is one of the language.
    write(tmp_path, wan_folder, "Fn_compute_blocks: 1, max_warmup_step: 3")
    made = sgd("check", "w.yaml", "--json", cwd=tmp_path)
    (problem,) = json.loads(made.stdout)
    assert (problem["code"], problem["help"]) == ("unknown-parameter", "did you mean `max_warmup_steps`?")
    # The node that meets a limit of the model tells it.
    write(tmp_path, wan_folder, "Fn_compute_blocks: 2")
    made = sgd("check", "w.yaml", "--json", cwd=tmp_path)
    (problem,) = json.loads(made.stdout)
    assert (problem["code"], problem["line"]) == ("bad-value", 16)
    # A plan says what is known, and neither imports nor applies the package.
    write(tmp_path, wan_folder, "Fn_compute_blocks: 1, max_warmup_steps: 3")
    made = sgd("plan", "w.yaml", "--json", cwd=tmp_path)
    assert "111???????" in made.stdout
    assert made.stderr.split()[-2:] == ["True", "False"]


@pytest.mark.slow
def test_a_run_says_nothing_on_stdout_but_its_own(tmp_path, wan_folder):
    write(tmp_path, wan_folder, "Fn_compute_blocks: 1, residual_diff_threshold: 0.9")
    made = sgd("exec", "w.yaml", "--out", "out", cwd=tmp_path)
    assert made.stderr.split()[-2:] == ["True", "True"]
    assert "Cache-DiT" not in made.stdout + made.stderr
    record = next((tmp_path / "out").rglob("run.json"))
    totals = json.loads(record.read_text())["gate_totals"]
    assert {total["method"] for total in totals} == {"library"}
    assert all(total["reused"] for total in totals)
