"""The bundled workflow files, run on tiny models, make the images of the pipelines."""

from importlib import import_module
from pathlib import Path

import pytest
import sgd
import torch
from helpers.direct import model_of
from helpers.imaging import reference
from PIL import Image
from sgd.nodes.library.starter_workflow import starter

WORKFLOWS = Path(__file__).parents[3] / "workflows"
PROMPT, NEGATIVE = "a red circle", "dark, blurred"
# Module of the tiny model, its options, inputs of the workflow, and the pipeline's arguments for these inputs.
CASES = {
    "z_image_turbo": ("tiny_z_image", {}, {}, {"guidance_scale": 0.0}),
    "z_image_turbo-guided": ("tiny_z_image", {}, {"scale": 4.0}, {"guidance_scale": 4.0}),
    "flux_dev": ("tiny_flux", {"use_dynamic_shifting": True}, {"guidance": 2.5}, {"guidance_scale": 2.5}),
    "flux_dev-guided": (
        "tiny_flux",
        {"use_dynamic_shifting": True},
        {"guidance": 2.5, "scale": 3.0},
        {"guidance_scale": 2.5, "true_cfg_scale": 3.0},
    ),
    "qwen_image": ("tiny_qwen_image", {"use_dynamic_shifting": True, "shift_terminal": 0.02}, {}, {}),
    "qwen_image-unguided": ("tiny_qwen_image", {}, {"scale": 1.0}, {"true_cfg_scale": 1.0}),
}
STARTERS = [
    ("tiny_z_image", {}),
    ("tiny_flux", {"use_dynamic_shifting": True}),
    ("tiny_flux", {"guidance": False}),
    ("tiny_qwen_image", {}),
]


@pytest.mark.parametrize("case", CASES)
def test_a_bundled_workflow_makes_the_image_of_the_pipeline(case, tmp_path):
    module, options, inputs, arguments = CASES[case]
    pipeline = import_module(f"helpers.{module}").build(**options)
    pipeline.save_pretrained(tmp_path / "model")
    plan = sgd.compile(
        WORKFLOWS / f"{case.split('-')[0]}.yaml",
        inputs={"prompt": PROMPT, "negative": NEGATIVE, "width": 48, "height": 32, "steps": 3, "seed": 5, "cache": 0}
        | inputs,
        set={"model.source": str(tmp_path / "model"), "model.dtype": "float32"},
    )
    run = sgd.run(plan, out=tmp_path / "out", device="cpu")
    assert run.status == "done"
    model = model_of(tmp_path / "model")
    same = type(pipeline)(**{name: model.component(name) for name in model.parts()})
    same.set_progress_bar_config(disable=True)
    given = {"negative_prompt": [NEGATIVE], "width": 48, "max_sequence_length": 512, "seed": 5} | arguments
    _, frames = reference(same, [PROMPT], **given)
    (name,) = run.record["outputs"]["image"]
    with Image.open(run.folder / name) as opened:
        pixels = torch.tensor(list(opened.convert("RGB").tobytes())).view(1, 1, 32, 48, 3) / 255
    assert (pixels - frames).abs().max() <= 0.5 / 255 + 1e-4


@pytest.mark.parametrize("name", ["z_image_turbo", "flux_dev"])
def test_an_unused_negative_prompt_is_not_encoded(name):
    plan = sgd.compile(WORKFLOWS / f"{name}.yaml", inputs={"prompt": PROMPT, "negative": NEGATIVE})
    text = next(
        step.call for step in plan.steps if getattr(step, "call", None) and step.call.type.name == "text.encode"
    )
    assert text.wanted == {"conditioning": {"positive"}}


@pytest.mark.parametrize(("module", "options"), STARTERS)
def test_a_workflow_of_sgd_init_runs_unchanged(module, options, tmp_path):
    """The file that `sgd init` writes passes the check and runs without changes."""
    import_module(f"helpers.{module}").build(**options).save_pretrained(tmp_path / "tiny")
    name, written = starter(str(tmp_path / "tiny"))
    file = tmp_path / f"{name}.yaml"
    file.write_text(written)
    plan = sgd.compile(file, inputs={"prompt": PROMPT, "width": 32, "height": 32, "steps": 2})
    run = sgd.run(plan, out=tmp_path / "out", device="cpu")
    assert run.status == "done"
    assert (run.folder / run.record["outputs"]["image"][0]).stat().st_size > 0
