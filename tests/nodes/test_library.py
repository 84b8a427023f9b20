"""Rules for every node type of the library."""

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import node_facts
from sgd.graph.contract.node import NodeType

MODULES = (
    "models.nodes.model_expert",
    "text",
    "latents",
    "schedule",
    "cfg",
    "denoiser",
    "vae",
    "image",
    "image_condition",
    "video",
    "frames_layout",
    "metrics",
    "cache.methods.no_gate",
    "cache.methods.fora",
    "cache.methods.dbcache",
    "cache.methods.taylorseer",
    "cache.methods.scm",
    "cache.methods.teacache",
    "cache.methods.magcache",
    "cache.methods.easycache",
    "cache.methods.custom_gate",
    "cache.methods.cache_dit_options",
)


def node_types():
    found = {}
    for name in MODULES:
        for value in vars(importlib.import_module(f"sgd.nodes.{name}")).values():
            if callable(value) and isinstance(getattr(value, "node", None), NodeType):
                found[value.node.name] = value.node
    return found


TYPES = node_types()


def test_the_modules_have_these_node_types():
    assert set(TYPES) == {
        "model.expert",
        "text.encode",
        "latents.noise",
        "latents.save",
        "latents.load",
        "schedule.make",
        "schedule.step",
        "schedule.choose",
        "cfg.split",
        "cfg.merge",
        "denoiser.predict",
        "vae.decode",
        "vae.encode",
        "image.encode",
        "image.keep",
        "image.save",
        "image.load",
        "video.save",
        "video.load",
        "frames.concat",
        "frames.grid",
        "metrics.compare",
        "cache.none",
        "cache.fora",
        "cache.dbcache",
        "cache.taylorseer",
        "cache.scm",
        "cache.teacache",
        "cache.magcache",
        "cache.easycache",
        "cache.gate",
        "cache.library",
    }


@pytest.mark.parametrize("name", TYPES)
def test_summary_parameters_and_outputs_are_documented(name):
    node = TYPES[name]
    assert node.summary.endswith(".")
    assert [i.name for i in node.inputs.values() if not i.doc] == []
    assert [o.name for o in node.outputs if not o.doc] == []


@pytest.mark.parametrize("name", TYPES)
def test_defaults_are_values_of_their_parameters(name):
    from sgd.graph.contract.parameter_values import value_problem

    for parameter in TYPES[name].inputs.values():
        if not parameter.required and not parameter.is_port:
            assert value_problem(parameter, parameter.default) is None, parameter.name


@pytest.mark.parametrize("name", TYPES)
def test_unknown_facts_give_no_diagnostic(name):
    node = TYPES[name]
    assert list(node.check(node.facts.make({})) if node.check else ()) == []
    if node.describe:
        node.describe(node.facts.make({}))


@pytest.mark.parametrize("name", TYPES)
def test_defaults_alone_give_no_diagnostic(name):
    node = TYPES[name]
    known = {i.name: i.default for i in node.inputs.values() if not i.required}
    assert list(node.check(node_facts.facts(node, known)) if node.check else ()) == []


def test_errors_of_the_run_are_documented():
    for node in TYPES.values():
        if "raise NodeError" in inspect.getsource(node.function):
            assert "Raises:" in node.doc, node.name


def test_importing_node_modules_imports_no_heavy_library():
    code = f"""
import importlib, sys
for name in {MODULES!r}:
    importlib.import_module("sgd.nodes." + name)
heavy = [m for m in ("torch", "diffusers", "transformers", "numpy", "av", "PIL", "safetensors") if m in sys.modules]
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_checks_and_descriptions_import_no_heavy_library():
    code = f"""
import importlib, sys
sys.path.insert(0, {str(Path(node_facts.__file__).parents[1])!r})
from helpers import node_facts
from sgd.graph.contract.node import NodeType
model = {{"family": "wan", "configs": {{"scheduler": {{"_class_name": "UniPCMultistepScheduler"}}, "vae": {{}}}}}}
for name in {MODULES!r}:
    for value in list(vars(importlib.import_module("sgd.nodes." + name)).values()):
        node = getattr(value, "node", None) if callable(value) else None
        if isinstance(node, NodeType):
            if node.facts is None:
                continue
            known = {{i.name: i.default for i in node.inputs.values() if not i.required}} | {{"model": model}}
            known |= {{"width": 33, "height": 33, "steps": 3, "scale": 1.0, "path": "a.mp4", "prompt": ["a"]}}
            known |= {{"conditioning": {{"family": "wan"}}}}
            facts = node_facts.facts(node, {{name: known[name] for name in node.facts.blanks if name in known}})
            list(node.check(facts) if node.check else ())
            node.describe and node.describe(facts)
            node.reads and node.reads(facts)
heavy = [m for m in ("torch", "diffusers", "transformers", "numpy", "av", "PIL", "safetensors") if m in sys.modules]
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)
