"""`model.compile`. Tests with the real compiler take half a minute and are marked slow."""

from itertools import pairwise

import pytest
import torch
from helpers import node_facts
from helpers.direct import BOTH, DirectRun, model_of
from sgd.graph.contract.errors import NodeError
from sgd.nodes.models.nodes import model_compile as module
from sgd.nodes.models.nodes.model_attention import attention
from sgd.nodes.models.nodes.model_compile import compile
from sgd.nodes.models.transforms import compiler_check
from sgd.nodes.models.transforms.compile_transform import compiling


@pytest.fixture
def model(wan_folder):
    return model_of(wan_folder, "scheduler")


@pytest.fixture
def compiled(monkeypatch):
    """Compile without a compiler. torch's `eager` backend traces the code and runs the trace."""
    real = torch.compile
    calls = []

    def stand_in(function, *args, mode=None, **options):
        calls.append({"mode": mode, **options})
        return real(function, *args, backend="eager", **options)

    monkeypatch.setattr(torch, "compile", stand_in)
    torch._dynamo.reset()
    yield calls
    torch._dynamo.reset()


def predict(value, batch=1):
    generator = torch.Generator().manual_seed(0)
    inputs = {
        "hidden_states": torch.randn(batch, 16, 2, 4, 4, generator=generator),
        "timestep": torch.tensor([500] * batch),
        "encoder_hidden_states": torch.randn(batch, 8, 32, generator=generator),
    }
    with torch.no_grad():
        return value.component("transformer")(**inputs, return_dict=False)[0]


@pytest.mark.parametrize("region", ["blocks", "whole"])
def test_only_this_value_is_compiled(model, run, compiled, region):
    value = compile(run, attention(run, model), region=region, mode="max-autotune-no-cudagraphs")
    for one in (model, value):
        one.acquire("transformer", run)
    plain = predict(model)
    assert "compile_seconds" not in run.details
    assert torch.allclose(predict(value), plain, atol=1e-5)
    assert {call["mode"] for call in compiled} == {"max-autotune-no-cudagraphs"}
    assert len(compiled) == (2 if region == "blocks" else 1)
    assert 0 < run.details["compile_seconds"] < 60
    first = run.details["compile_seconds"]
    predict(value)
    assert run.details["compile_seconds"] == first, "the second call compiles nothing"
    predict(value, batch=2)
    assert run.details["compile_seconds"] > first, "another size is compiled again"
    assert torch.equal(predict(model), plain)
    blocks = model.component("transformer").blocks
    assert all(block._compiled_call_impl is None for block in blocks)
    assert run.details["compile"] == f"{region}, max-autotune-no-cudagraphs"


def test_sizes_beyond_the_recompile_limit_are_compiled(model, run, compiled):
    """By default, torch runs sizes beyond the limit uncompiled."""
    from torch._dynamo import config
    from torch._dynamo.utils import counters

    counters.clear()
    value = compile(run, model)
    value.acquire("transformer", run)
    before, limit = (config.recompile_limit, config.fail_on_recompile_limit_hit), config.recompile_limit
    seconds = 0.0
    for batch in range(1, limit + 3):
        predict(value, batch)
        assert run.details["compile_seconds"] > seconds
        seconds = run.details["compile_seconds"]
    assert counters["stats"]["unique_graphs"] == limit + 2
    with config.patch(accumulated_recompile_limit=limit + 3):
        predict(value, batch=limit + 3)
        with pytest.raises(NodeError, match=f"for {limit + 3} sizes") as error:
            predict(value, batch=limit + 4)
        assert "dynamic: true" in error.value.help
    assert (config.recompile_limit, config.fail_on_recompile_limit_hit) == before


@pytest.mark.parametrize(("dynamic", "clips", "again"), [(False, 1, True), (True, 1, True), (True, 2, False)])
def test_the_end_of_batched_guidance_compiles_again(wan_folder, run, compiled, dynamic, clips, again):
    """Later batches are half as large. Only code for any size is not compiled again, except for a batch of 1."""
    from sgd.nodes import cfg, denoiser, latents, schedule, text
    from sgd.nodes.cache.state import GateState

    model = model_of(wan_folder)
    value = compile(run, model, dynamic=dynamic)
    value.acquire("transformer", run)
    with torch.no_grad():
        texts = text.encode(DirectRun(), BOTH, model, ["a red circle"], negative=["dark"], max_length=16)
        now = latents.noise(model, width=32, height=32, frames=5, batch=clips, seed=list(range(clips)))
        branches = cfg.split(texts, scale=5.0, stop=0.5, batched=True)
        gates, seconds, names = GateState(), [0.0], []
        for step in schedule.make(model, steps=4):
            expected = denoiser.predict(model, now, step, branches, gates, DirectRun()).branches
            made = denoiser.predict(value, now, step, branches, gates, run).branches
            names.append(set(made))
            for name, tensor in expected.items():
                assert torch.allclose(made[name], tensor, rtol=0, atol=1e-5 * tensor.abs().max().item())
            seconds.append(run.details["compile_seconds"])
    assert names == [{"positive", "negative"}] * 2 + [{"positive"}] * 2
    grew = [later > earlier for earlier, later in pairwise(seconds)]
    assert grew == [True, False, again, False]


FILE = """
sgd: 1
name: compiled
inputs: {source: {type: str}}
nodes:
  model: {uses: model.load, with: {source: $source, dtype: float32}}
  quick: {uses: model.compile, with: {model: $model}}
  text: {uses: text.encode, with: {model: $model, prompt: a red circle, negative: dark, max_length: 16}}
  noise: {uses: latents.noise, with: {model: $model, width: 32, height: 32, frames: 5, seed: 3}}
  schedule: {uses: schedule.make, with: {model: $model, steps: 4}}
  split: {uses: cfg.split, with: {conditioning: $text, scale: 5.0, stop: 0.5, batched: true}}
  gate: {uses: cache.fora}
  denoise:
    for: {step: $schedule}
    carry: {latents: $noise}
    body:
      velocity:
        uses: denoiser.predict
        with: {model: $quick, latents: $latents, step: $step, branches: $split, gate: $gate}
      guided: {uses: cfg.merge, with: {predictions: $velocity, branches: $split}}
      next: {uses: schedule.step, with: {schedule: $schedule, step: $step, latents: $latents, velocity: $guided}}
    yield: {latents: $next}
  kept: {uses: latents.save, with: {latents: $denoise, path: made.safetensors}}
outputs: {kept: $kept}
"""


def test_a_compiled_workflow_gives_the_uncompiled_latents(wan_folder, tmp_path, compiled):
    """The workflow has a gate, and its guidance ends half way. The record has the compile time."""
    import sgd
    from safetensors.torch import load_file

    made, details = [], {}
    for name, text in (("compiled", FILE), ("plain", FILE.replace("$quick", "$model"))):
        file = tmp_path / f"{name}.yaml"
        file.write_text(text)
        plan = sgd.compile(file, inputs={"source": str(wan_folder)})
        done = sgd.run(plan, out=tmp_path / name, device="cpu")
        assert done.status == "done"
        made.append(load_file(done.folder / "made.safetensors")["latents"])
        details[name] = {row["name"]: row.get("detail", {}) for row in done.record["nodes"]}
    assert torch.allclose(*made, rtol=0, atol=1e-5 * made[1].abs().max().item())
    reported = [name for name, detail in details["compiled"].items() if "compile_seconds" in detail]
    assert reported == ["denoise.velocity"]
    assert not any("compile_seconds" in detail for detail in details["plain"].values())


def test_compiles_after_attention_is_measured(model, run, compiled, monkeypatch, tmp_path):
    from sgd.nodes.models.attention import backend_timing
    from sgd.nodes.models.attention.processors import chosen
    from sgd.nodes.models.transforms.attention_transform import Attention

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    times = iter([2e-3, 1e-3])
    monkeypatch.setattr(backend_timing, "measure", lambda call, device, most: next(times))
    value = model.transformed(Attention("transformer", ("native", "_native_math")))
    value = compile(run, value)
    for one in (model, value):
        one.acquire("transformer", run)
    plain = predict(model)
    assert torch.equal(predict(value), plain), "the first call is watched and not compiled"
    assert "compile_seconds" not in run.details
    assert chosen(value.component("transformer")) == {"_native_math"}
    assert torch.allclose(predict(value), plain, atol=1e-5)
    assert run.details["compile_seconds"] > 0


@pytest.mark.parametrize("mode", ["reduce-overhead", "max-autotune"])
def test_cuda_graphs_of_single_blocks_are_unsupported(model, run, mode):
    facts = {"model": {"components": {"transformer": "T"}}, "component": "transformer", "mode": mode}
    found = [problem for problem in node_facts.check(compile, **facts) if problem.parameter == "mode"]
    assert [problem.code for problem in found] == ["unsupported"]
    assert found[0].help == "set region: whole, or mode: default or max-autotune-no-cudagraphs"
    assert not [p for p in node_facts.check(compile, **facts, region="whole") if p.parameter == "mode"]
    run.planning = True
    with pytest.raises(NodeError, match="region: blocks cannot have them"):
        compile(run, model, mode=mode)


def test_results_of_cuda_graphs_are_copied(model, run, monkeypatch):
    """A graph gives every result in the same memory."""
    memory = torch.zeros(1)
    calls, marks = iter([1.0, 2.0]), []

    def recorded(function, **options):
        assert options["mode"] == "reduce-overhead"
        return lambda *args, **kwargs: (memory.fill_(next(calls)),)

    monkeypatch.setattr(torch, "compile", recorded)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: marks.append(1))
    value = compile(run, model, region="whole", mode="reduce-overhead")
    value.acquire("transformer", run)
    first, second = predict(value), predict(value)
    assert (first.item(), second.item(), len(marks)) == (1.0, 2.0, 2)


def test_compile_must_be_the_last_transform(model, run):
    value = compile(run, model)
    for node, arguments in ((attention, {}), (compile, {})):
        with pytest.raises(NodeError, match=r"cannot come after model\.compile|already went through"):
            node(run, value, **arguments)


def test_a_class_without_repeated_blocks_is_an_error(wan_folder, run, monkeypatch):
    from diffusers import WanTransformer3DModel

    monkeypatch.setattr(WanTransformer3DModel, "_repeated_blocks", None)
    value = compile(run, model_of(wan_folder, "scheduler"))
    with pytest.raises(NodeError, match="does not name its repeated blocks") as error:
        value.acquire("transformer", run)
    assert error.value.help == "set region: whole"


def test_a_missing_compiler_is_unavailable(model, run, monkeypatch):
    monkeypatch.setattr(compiler_check.shutil, "which", lambda name: None)
    monkeypatch.setattr(module, "gpu", lambda: None)
    [problem] = node_facts.check(compile, model={"components": {"transformer": "T"}}, component="transformer")
    assert problem.code == "unavailable"
    with pytest.raises(NodeError, match=r"C\+\+ compiler"):
        compile(run, model)
    run.planning = True
    compile(run, model)


def test_measuring_removes_its_callbacks():
    from torch._dynamo.callback import callback_handler

    before = len(callback_handler.start_callbacks)
    with compiling() as seconds:
        pass
    assert seconds() == 0
    assert len(callback_handler.start_callbacks) == len(callback_handler.end_callbacks) == before


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("region", ["blocks", "whole"])
def test_the_real_compiler_gives_the_uncompiled_result(wan_folder, region):
    torch._dynamo.reset()
    run = DirectRun()
    model = model_of(wan_folder, "transformer")
    value = compile(run, model, region=region)
    value.acquire("transformer", run)
    assert torch.allclose(predict(value), predict(model), atol=1e-5)
    assert run.details["compile_seconds"] > 0.1
