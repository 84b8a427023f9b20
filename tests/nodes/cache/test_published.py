"""Published coefficients and ratios are those of their origin, and belong to no other model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import node_facts
from sgd.graph.contract.node import Here
from sgd.nodes.cache.methods.teacache import teacache
from sgd.nodes.cache.published import magcache_ratios, teacache_coefficients
from sgd.nodes.cache.published.checkpoints import by_size, checkpoints
from sgd.nodes.models.nodes import model_load
from sgd.nodes.models.repository import repository

CONFIGS = repository.BUNDLED
BUNDLED = {
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": ("wan", "Wan2.1-T2V-1.3B"),
    "Wan-AI/Wan2.1-T2V-14B-Diffusers": ("wan", "Wan2.1-T2V-14B"),
    "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers": ("wan", "Wan2.1-I2V-14B-480P"),
    "Wan-AI/Wan2.1-I2V-14B-720P-Diffusers": ("wan", "Wan2.1-I2V-14B-720P"),
    "Wan-AI/Wan2.2-T2V-A14B-Diffusers": ("wan", "Wan2.2-T2V-A14B"),
    "Wan-AI/Wan2.2-I2V-A14B-Diffusers": ("wan", "Wan2.2-I2V-A14B"),
    "Wan-AI/Wan2.2-TI2V-5B-Diffusers": ("wan", "Wan2.2-TI2V-5B"),
    "hunyuanvideo-community/HunyuanVideo": ("hunyuan-video", "HunyuanVideo"),
    "black-forest-labs/FLUX.1-dev": ("flux", "FLUX.1-dev"),
    "Qwen/Qwen-Image": ("qwen-image", "Qwen-Image"),
    "Tongyi-MAI/Z-Image-Turbo": ("z-image", None),
}


def described(source: str) -> tuple[str, dict]:
    known = node_facts.describe(model_load.load, source=source)
    return known["family"], known["configs"]


def changed(configs: dict, part: str, **values) -> dict:
    return configs | {part: configs[part] | values}


def test_all_bundled_models_are_here():
    assert {f"{path.parent.parent.name}/{path.parent.name}" for path in CONFIGS.glob("*/*/model_index.json")} == set(
        BUNDLED
    )


@pytest.mark.parametrize("source", BUNDLED)
def test_a_model_gets_its_own_tables(source):
    family, configs = described(source)
    expected_family, label = BUNDLED[source]
    assert family == expected_family
    assert checkpoints(family, configs, source) == ((label,) if label else ())
    fitted = teacache_coefficients.published(family, configs, source)
    if label and label.startswith("Wan2.1"):
        assert [entry.signal for entry in fitted] == ["time", "time_projection"]
    elif label in ("HunyuanVideo", "FLUX.1-dev"):
        assert [entry.signal for entry in fitted] == ["modulated"]
    else:  # must not borrow another model's
        assert fitted == ()
    assert {entry.model for entry in fitted} <= {label}
    measured = magcache_ratios.published(family, configs, source)
    assert {table.model for table in measured} == ({label} if label else set())
    transformers = {name for name in ("transformer", "transformer_2") if name in configs}
    assert all(set(table.ratios) == set(table.retention) == transformers for table in measured)


def test_a_resolution_tells_models_apart_where_no_name_does():
    family, configs = described("Wan-AI/Wan2.1-I2V-14B-480P-Diffusers")
    for published in (teacache_coefficients.published, magcache_ratios.published):
        both: Any = published(family, configs, "/models/mine")
        assert {entry.model for entry in both} == {"Wan2.1-I2V-14B-480P", "Wan2.1-I2V-14B-720P"}
        assert {entry.model for entry in by_size(both, 480, 832)} == {"Wan2.1-I2V-14B-480P"}
        assert {entry.model for entry in by_size(both, 960, 640)} == {"Wan2.1-I2V-14B-720P"}
        assert {entry.model for entry in published(family, configs, "/models/wan-i2v-720p/")} == {"Wan2.1-I2V-14B-720P"}
    hunyuan = magcache_ratios.published(*described("hunyuanvideo-community/HunyuanVideo"))
    assert [table.pixels for table in by_size(hunyuan, 960, 544)] == [960 * 544]
    assert [table.pixels for table in by_size(hunyuan, 1280, 720)] == [1280 * 720]
    fitted = teacache_coefficients.published(*described("hunyuanvideo-community/HunyuanVideo"))
    assert by_size(fitted, 64, 64) == fitted


@pytest.mark.parametrize(
    ("source", "part", "values"),
    [
        ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "transformer", {"num_layers": 29}),
        ("Wan-AI/Wan2.1-T2V-14B-Diffusers", "transformer", {"in_channels": 20}),
        ("Wan-AI/Wan2.1-T2V-14B-Diffusers", "model_index", {"boundary_ratio": 0.875}),
        ("Wan-AI/Wan2.1-T2V-14B-Diffusers", "model_index", {"transformer_2": ["diffusers", "WanTransformer3DModel"]}),
        ("Wan-AI/Wan2.1-I2V-14B-720P-Diffusers", "transformer", {"pos_embed_seq_len": 514}),
        ("Wan-AI/Wan2.2-I2V-A14B-Diffusers", "transformer_2", {"in_channels": 16}),
        ("Wan-AI/Wan2.2-TI2V-5B-Diffusers", "model_index", {"expand_timesteps": False}),
        ("hunyuanvideo-community/HunyuanVideo", "transformer", {"image_condition_type": "token_replace"}),
        ("hunyuanvideo-community/HunyuanVideo", "model_index", {"_class_name": "HunyuanVideoFramepackPipeline"}),
        ("black-forest-labs/FLUX.1-dev", "transformer", {"guidance_embeds": False}),
        ("black-forest-labs/FLUX.1-dev", "transformer", {"in_channels": 384}),
        ("Qwen/Qwen-Image", "transformer", {"zero_cond_t": True}),
    ],
)
def test_another_architecture_gets_nothing(source, part, values):
    family, configs = described(source)
    assert magcache_ratios.published(family, configs)
    other = changed(configs, part, **values)
    assert teacache_coefficients.published(family, other) == ()
    assert magcache_ratios.published(family, other) == ()


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("black-forest-labs/FLUX.1-dev", "black-forest-labs/FLUX.1-Krea-dev"),
        ("Qwen/Qwen-Image", "Qwen/Qwen-Image-2512"),
        ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "FastVideo/FastWan2.1-T2V-1.3B-Diffusers"),
        ("hunyuanvideo-community/HunyuanVideo", "/models/FastHunyuan-diffusers/"),
    ],
)
def test_other_weights_of_an_architecture_get_nothing(source, name):
    family, configs = described(source)
    assert checkpoints(family, configs, "/distilled/fast/model")  # the folders above say nothing
    assert teacache_coefficients.published(family, configs, name) == ()
    assert magcache_ratios.published(family, configs, name) == ()


def test_missing_configurations_get_nothing():
    for family in ("wan", "hunyuan-video", "flux", "qwen-image", "z-image", "no-such"):
        assert teacache_coefficients.published(family, {}) == ()
        assert magcache_ratios.published(family, {"model_index": {}}, "x") == ()


def test_polynomials_have_the_known_signs():
    """Where each changes its sign was found by another evaluation of the origin's numbers; a wrong digit moves it."""
    import numpy

    by_model = {
        (entry.model, entry.signal): numpy.poly1d(entry.coefficients) for entry in teacache_coefficients.ENTRIES
    }
    assert len(by_model) == len(teacache_coefficients.ENTRIES) == 10
    fourteen = by_model["Wan2.1-T2V-14B", "time_projection"]
    assert round(fourteen(0.2)) == -188
    for key, root in {
        ("Wan2.1-T2V-14B", "time"): 0.13,
        ("Wan2.1-I2V-14B-480P", "time"): 0.057,
        ("Wan2.1-I2V-14B-720P", "time"): 0.058,
        ("Wan2.1-T2V-14B", "time_projection"): 0.0076,
    }.items():
        polynomial = by_model[key]
        assert polynomial(root * 0.97) < 0 < polynomial(root * 1.03), key
    for key, root in {
        ("Wan2.1-T2V-1.3B", "time_projection"): 0.102,
        ("Wan2.1-T2V-14B", "time_projection"): 0.0817,
    }.items():
        assert by_model[key](root * 1.03) < 0 < by_model[key](root * 0.97), key


@pytest.mark.parametrize("entry", teacache_coefficients.ENTRIES, ids=lambda entry: f"{entry.model} {entry.signal}")
def test_steps_that_are_computed_are_those_of_the_polynomial(entry):
    """The gate has them of the signal alone; the origin, beside each polynomial."""
    gate = teacache(Here("gate"), retention_steps=entry.signal == "time_projection")
    assert (gate.limits.warmup_steps, int(gate.limits.last)) == (entry.first, entry.last)


def test_flux_has_the_list_that_diffusers_ships():
    from diffusers.hooks.mag_cache import FLUX_MAG_RATIOS

    (table,) = magcache_ratios.published(*described("black-forest-labs/FLUX.1-dev"))
    assert table.at(28) == pytest.approx(FLUX_MAG_RATIOS.tolist())
    assert table.forced(28) == (11,)
    assert table.forced(50) == (20,)  # 20 * 27/49 = 11.02; 19 and 21 are nearer to 10 and 12
    assert table.forced(100) == (39, 40, 41, 42)


@pytest.mark.parametrize("table", magcache_ratios.tables(), ids=lambda table: f"{table.model}-{table.source}")
def test_lists_interpolate_as_diffusers_does(table):
    import torch
    from diffusers.hooks.mag_cache import nearest_interp

    measured = table.ratios["transformer"]["positive"]
    for steps in (1, 2, 3, 7, 8, 20, 28, 30, 40, 50, 60, 100):
        theirs = nearest_interp(torch.tensor(measured, dtype=torch.float64), steps)
        assert table.at(steps) == tuple(theirs.tolist())
    for branches in table.ratios.values():
        assert len({len(values) for values in branches.values()}) == 1
        for values in branches.values():
            assert values[0] == 1.0
            assert all(0.5 < value < 2 for value in values)
    with pytest.raises(KeyError):
        table.at(20, branch="no-such")
    with pytest.raises(ValueError, match="one step"):
        table.at(0)


def test_steps_are_those_of_the_origin():
    assert {table.model: table.steps for table in magcache_ratios.tables()} == {
        "HunyuanVideo": 50,
        "Wan2.1-T2V-1.3B": 50,
        "Wan2.1-T2V-14B": 50,
        "Wan2.1-I2V-14B-480P": 40,
        "Wan2.1-I2V-14B-720P": 40,
        "Wan2.2-T2V-A14B": 40,
        "Wan2.2-I2V-A14B": 40,
        "Wan2.2-TI2V-5B": 50,
        "Qwen-Image": 50,
        "FLUX.1-dev": 28,
    }


@pytest.mark.parametrize(("model", "shift", "boundary"), [("T2V", 12.0, 0.875), ("I2V", 5.0, 0.9)])
def test_experts_share_steps_as_their_schedule_does(model, shift, boundary):
    """The change of transformers, found in the list by its odd ratio, is where Wan 2.2's schedule has it."""
    (table,) = (table for table in magcache_ratios.tables() if table.model == f"Wan2.2-{model}-A14B")
    linear = [1 - step / 40 for step in range(40)]
    above = sum(shift * s / (1 + (shift - 1) * s) >= boundary for s in linear)
    assert [len(table.ratios[name]["positive"]) for name in ("transformer", "transformer_2")] == [above, 40 - above]


def test_no_torch():
    code = (
        "import sys; from sgd.nodes.cache.published import magcache_ratios as ratios;"
        "from sgd.nodes.cache.published import teacache_coefficients as coefficients;"
        "ratios.published('wan', {}); coefficients.published('wan', {}); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_file_has_no_unknown_keys():
    """Nothing in the file is dropped on the way."""
    known = set(magcache_ratios.Table.__dataclass_fields__)
    entries = json.loads((Path(magcache_ratios.__file__).parent / "magcache_ratios.json").read_text())
    assert all(set(entry) <= known for entry in entries)
    assert len(entries) == len(magcache_ratios.tables()) == 12
