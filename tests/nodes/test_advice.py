"""Advice for a plan that does not fit, compared with plans that follow it."""

import re

import pytest
import sgd
import torch
from sgd.graph.cli import other_machine
from sgd.graph.cli.main import main
from sgd.graph.contract import device
from sgd.graph.runtime.estimate import estimate
from sgd.nodes import standard_library
from sgd.nodes.support.device_memory import size

pytestmark = pytest.mark.slow  # one plan or calibration at full size serves several tests

GIB = 1 << 30

FILE = """
sgd: 1
nodes:
  loaded: {uses: model.load, with: {source: SOURCE, dtype: DTYPE, vae_dtype: DTYPE, offload: "off"}}
  model: {uses: model.offload, with: {model: $loaded, component: text_encoder}}
  text: {uses: text.encode, with: {model: $model, prompt: a, negative: b}}
  noise: {uses: latents.noise, with: {model: $loaded, width: 832, height: 480, frames: FRAMES}}
  schedule: {uses: schedule.make, with: {model: $loaded, steps: 2}}
  split: {uses: cfg.split, with: {conditioning: $text, scale: 3.0}}
  denoise:
    for: {step: $schedule}
    carry: {latents: $noise}
    body:
      velocity: {uses: denoiser.predict, with: {model: $loaded, latents: $latents, step: $step, branches: $split}}
      guided: {uses: cfg.merge, with: {predictions: $velocity, branches: $split}}
      next: {uses: schedule.step, with: {schedule: $schedule, step: $step, latents: $latents, velocity: $guided}}
    yield: {latents: $next}
  decoded: {uses: vae.decode, with: {model: $loaded, latents: $denoise, tiling: "TILING"}}
  sheet: {uses: frames.grid, with: {frames: $decoded}}
  saved: {uses: image.save, with: {frames: $sheet, path: f.png}}
outputs: {saved: $saved}
"""


def written(
    tmp_path, source="Wan-AI/Wan2.1-T2V-1.3B-Diffusers", *, offload=False, dtype="float32", tiling="off", frames="17"
):
    text = (
        FILE.replace("SOURCE", str(source)).replace("TILING", tiling).replace("DTYPE", dtype).replace("FRAMES", frames)
    )
    if not offload:
        text = re.sub(r"  model: .*\n", "", text).replace("$model", "$loaded")
    file = tmp_path / "f.yaml"
    file.write_text(text)
    return file


def planned(file, memory, on="cuda"):
    options = {"weights": "dummy", "device": on}
    return estimate(sgd.compile(file), options=options, device=on, memory_bytes=memory)


def promised(lines):
    """The peaks that lines of advice promise, as text."""
    return [found[1] for line in lines if (found := re.search(r"at most (.*?), which", line))]


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """The plan of the unchanged file, for a GPU with too little memory."""
    return planned(written(tmp_path_factory.mktemp("given")), 3 * GIB)


def test_plans_that_follow_the_advice_have_the_promised_peak(tmp_path, given):
    assert given["fits"] is False
    first, *steps = given["help"]
    assert first == f"text needs the most memory: {size(given['peak_bytes'])}, and the device has 3.00 GiB"
    names = ["`model.offload` of text_encoder", "weights in bfloat16", "`model.offload` of transformer"]
    assert [any(name in line for line in steps) for name in names] == [True] * 3
    assert "`model.offload` of text_encoder" in steps[0]
    followed = planned(written(tmp_path, offload=True), 3 * GIB)
    assert size(followed["peak_bytes"]) == promised(steps)[0]
    # The plan that follows the first advice gets the rest of the advice.
    assert promised(followed["help"]) == promised(steps)[1:]


def test_advice_on_tiles_names_their_peak(tmp_path, given):
    (row,) = [row for row in given["nodes"] if row["name"] == "decoded"]
    followed = planned(written(tmp_path, tiling="on"), 3 * GIB)
    (tiled,) = [row for row in followed["nodes"] if row["name"] == "decoded"]
    assert tiled["peak_bytes"] == row["detail"]["tiled_peak_bytes"] < row["peak_bytes"]
    # If no other node exceeds the memory, tiling is the first advice.
    alone = {**given, "nodes": [row], "memory_bytes": tiled["peak_bytes"]}
    _, line = standard_library.memory_advice(alone)
    assert line == f"`tiling: on` of decoded: at most {size(tiled['peak_bytes'])}, which fits"


def test_a_plan_that_fits_gets_no_advice(tmp_path):
    assert planned(written(tmp_path), 100 * GIB)["help"] == []


def test_advice_for_a_cpu_names_no_offloading(given):
    lines = standard_library.memory_advice({**given, "device": "cpu"})
    assert not any("offload" in line for line in lines)
    assert any("bfloat16" in line for line in lines)


def test_sgd_plan_prints_the_advice(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(other_machine, "memory_bytes", lambda name: 3 * GIB)
    assert main(["plan", str(written(tmp_path)), "--weights", "dummy", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "of 3.00 GiB on cpu: does not fit" in printed
    assert "help: text needs the most memory: " in printed
    assert "help: weights in bfloat16 (`dtype` and `vae_dtype` of model.load): at most " in printed


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("DefaultCPUAllocator"), False),
    ],
)
def test_out_of_memory_errors_of_torch_are_recognised(error, expected):
    assert standard_library.is_out_of_memory(error) is expected


def test_a_run_out_of_memory_prints_advice_with_numbers(tmp_path, wan_folder, monkeypatch, capsys):
    from diffusers import WanTransformer3DModel

    def out_of_memory(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    file = written(tmp_path, wan_folder, frames="9")
    file.write_text(file.read_text().replace("832", "320").replace("480", "288"))
    whole = planned(file, None, on="cpu")["peak_bytes"]
    real = WanTransformer3DModel.forward
    monkeypatch.setattr(
        WanTransformer3DModel,
        "forward",
        lambda self, hidden_states, *a, **k: (real if hidden_states.is_meta else out_of_memory)(
            self, hidden_states, *a, **k
        ),
    )
    monkeypatch.setattr(device, "memory_bytes", lambda name: int(0.9 * whole))
    assert main(["exec", str(file), "--out", str(tmp_path / "out"), "--device", "cpu", "--quiet"]) == 4
    printed = capsys.readouterr().err
    assert "denoise.velocity (denoiser.predict) failed: OutOfMemoryError" in printed
    assert " = help: decoded needs the most memory: " in printed
    assert re.search(r" = help: `tiling: on` of decoded: at most \d.* MiB, which ", printed)
    assert "Traceback" not in printed
