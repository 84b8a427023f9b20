"""`sgd init` writes a workflow that passes the check, for every model with a bundled configuration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sgd.graph.compiler.compile import check
from sgd.graph.contract.errors import NodeError
from sgd.nodes.library.starter_workflow import starter as module
from sgd.nodes.models.repository.repository import BUNDLED

MODELS = sorted(p.parent.relative_to(BUNDLED).as_posix() for p in BUNDLED.rglob("model_index.json"))


@pytest.mark.parametrize("model", MODELS)
def test_workflow_for_a_bundled_model_passes_the_check(model: str, tmp_path: Path) -> None:
    name, text = module(model)
    file = tmp_path / f"{name}.yaml"
    file.write_text(text)
    found = check(file)
    assert [d.message for d in found.diagnostics] == []
    assert found.graph is not None
    (load,) = [c for c in found.graph.calls() if c.type.name == "model.load"]
    source = load.args["source"].source
    assert getattr(source, "value", None) == model


def test_the_kind_of_model_decides_the_workflow() -> None:
    assert "experts_denoise" in module("Wan-AI/Wan2.2-T2V-A14B-Diffusers")[1]
    assert "image.encode" in module("Wan-AI/Wan2.1-I2V-14B-480P-Diffusers")[1]
    assert "image.encode" not in module("Wan-AI/Wan2.1-T2V-1.3B-Diffusers")[1]


def test_a_workflow_for_flux_without_embedded_guidance_sets_no_guidance(tmp_path: Path) -> None:
    folder = tmp_path / 'a "quoted" $folder'
    (folder / "transformer").mkdir(parents=True)
    index = json.loads((BUNDLED / "black-forest-labs/FLUX.1-dev/model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index))
    for part in (BUNDLED / "black-forest-labs/FLUX.1-dev").iterdir():
        if part.is_dir():
            (folder / part.name).mkdir(exist_ok=True)
            for config in part.glob("*.json"):
                (folder / part.name / config.name).write_text(config.read_text())
    path = folder / "transformer" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "guidance_embeds": False}))
    name, text = module(str(folder))
    file = tmp_path / f"{name}.yaml"
    file.write_text(text)
    assert [d.message for d in check(file).diagnostics] == []
    assert "$guidance" not in text
    assert "embedded:" not in text


def test_an_unknown_pipeline_is_refused_with_the_known_families(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(NodeError, match="StableDiffusionPipeline") as error:
        module(str(tmp_path))
    assert "WanPipeline" in (error.value.help or "")


def test_starter_and_machine_facts_can_be_called_twice() -> None:
    from sgd.nodes import standard_library

    first, second = (standard_library.starter(MODELS[0]) for _ in range(2))
    assert first == second
    assert standard_library.machine_facts().keys() == standard_library.machine_facts().keys()
