"""`sgd.session()`: what stays between runs, what does not, and who takes part. On the CPU, with the tiny Wan model."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import threading
import time
import weakref
from typing import Any

import pytest
import sgd
import torch
from safetensors.torch import load_file, save_file
from sgd.graph.runtime import session as sessions
from sgd.graph.runtime.worker import GRACE_SECONDS
from sgd.nodes.models.memory import kept_weights
from sgd.nodes.models.memory.weights import Weights
from sgd.nodes.models.repository import reading
from sgd.nodes.models.transforms.quantize_transform import Quantize

FILE = """
sgd: 1
name: kept
inputs: {source: {type: str}, seed: {type: int, default: 3}, height: {type: int, default: 32}}
nodes:
  model: {uses: model.load, with: {source: $source, dtype: float32}}
  quick: {uses: model.attention, with: {model: $model, backend: sdpa}}
  text: {uses: text.encode, with: {model: $model, prompt: a red circle, negative: dark, max_length: 16}}
  noise: {uses: latents.noise, with: {model: $model, width: 32, height: $height, frames: 5, seed: $seed}}
  schedule: {uses: schedule.make, with: {model: $model, steps: 2}}
  split: {uses: cfg.split, with: {conditioning: $text, scale: 5.0}}
  denoise:
    for: {step: $schedule}
    carry: {latents: $noise}
    body:
      velocity:
        uses: denoiser.predict
        with: {model: $quick, latents: $latents, step: $step, branches: $split}
      guided: {uses: cfg.merge, with: {predictions: $velocity, branches: $split}}
      next: {uses: schedule.step, with: {schedule: $schedule, step: $step, latents: $latents, velocity: $guided}}
    yield: {latents: $next}
  kept: {uses: latents.save, with: {latents: $denoise, path: made.safetensors}}
outputs: {kept: $kept}
"""


class Seen:
    """The components that were read from files, and weak references to the modules."""

    def __init__(self) -> None:
        self.read: list[str] = []
        self.modules: list[weakref.ref[Any]] = []

    def take(self) -> list[str]:
        found, self.read = sorted(self.read), []
        return found

    def alive(self) -> int:
        gc.collect()
        return sum(module() is not None for module in self.modules)


@pytest.fixture
def seen(monkeypatch):
    found, real = Seen(), reading.read

    def read(repository, part, *rest):
        made = real(repository, part, *rest)
        found.read.append(part)
        if isinstance(made, torch.nn.Module):
            found.modules.append(weakref.ref(made))
        return made

    monkeypatch.setattr(reading, "read", read)
    return found


@pytest.fixture
def workflow(wan_folder, tmp_path):
    """Runs the workflow with a copy of the model, each time in a new folder."""
    source = shutil.copytree(wan_folder, tmp_path / "model")
    file = tmp_path / "kept.yaml"
    file.write_text(FILE)

    def run(profile: str = "off", **inputs: Any) -> sgd.Result:
        plan = sgd.compile(file, inputs={"source": str(source), **inputs})
        number = len(list(tmp_path.glob("out-*")))
        return sgd.run(plan, out=tmp_path / f"out-{number}", device="cpu", profile=profile)

    run.source = source  # type: ignore[attr-defined]
    return run


def latents(result: sgd.Result) -> torch.Tensor:
    assert result.status == "done", result.error
    return load_file(result.folder / "made.safetensors")["latents"]


def row(result: sgd.Result, name: str) -> dict[str, Any]:
    return next(each for each in result.record["nodes"] if each["name"] == name)


PARTS = ["scheduler", "text_encoder", "tokenizer", "transformer"]


def test_without_a_session_nothing_stays(workflow, seen):
    first, second = workflow("nodes"), workflow("nodes")
    assert seen.take() == sorted(PARTS * 2)
    assert seen.alive() == 0
    assert torch.equal(latents(first), latents(second))
    assert "kept" not in row(second, "model")["detail"]


def test_the_second_run_of_a_session_loads_nothing(workflow, seen):
    plain = [latents(workflow(seed=seed)) for seed in (3, 4)]
    seen.take()
    with sgd.session():
        first = workflow("nodes", seed=3)
        assert seen.take() == PARTS
        second = workflow("nodes", seed=4)
        assert seen.take() == []
        assert seen.alive() == 2
    assert seen.alive() == 0, "the memory is free at the end"
    assert [torch.equal(*pair) for pair in zip(plain, map(latents, (first, second)), strict=True)] == [True, True]
    detail = row(second, "model")["detail"]
    assert sorted(detail["kept"].split(", ")) == PARTS
    assert detail["transformer"]["kept"] is True
    assert detail["transformer"]["parameters"] == row(first, "model")["detail"]["transformer"]["parameters"]
    assert row(second, "(load)")["seconds"] < 0.1 * row(first, "(load)")["seconds"]
    assert row(second, "(load)")["bytes"] is None
    assert second.record["phases"]["load"] == row(second, "(load)")["seconds"]
    files = [{f["name"]: f["sha256"] for f in each.record["recipe"]["weights"]} for each in (first, second)]
    assert files[0] == files[1], "the recipe names the files of kept components too"


def test_a_view_is_kept_and_reports_to_each_run(workflow, monkeypatch):
    from sgd.nodes.models.attention import processors

    calls = []
    real = processors.choose
    monkeypatch.setattr(
        "sgd.nodes.models.transforms.attention_transform.choose", lambda *given: (calls.append(given[1]), real(*given))
    )
    with sgd.session():
        results = [workflow("nodes") for _ in range(2)]
        assert calls == ["native"]
    details = [row(each, "quick")["detail"] for each in results]
    assert [detail["attention"] for detail in details] == ["sdpa"] * 2
    assert "transformer" in details[1]["loaded"]
    workflow()
    assert calls == ["native"] * 2


def test_the_layers_that_stay_are_told_beside_the_components_that_are_kept(wan_folder, tmp_path):
    file = tmp_path / "kept.yaml"
    file.write_text(
        FILE.replace("model.attention, with: {model: $model, backend: sdpa}", "model.quantize, with: {model: $model}")
    )
    with sgd.session():
        results = [
            sgd.run(sgd.compile(file, inputs={"source": str(wan_folder)}), out=tmp_path / f"{turn}", device="cpu")
            for turn in range(2)
        ]
    first, second = (row(each, "quick")["detail"] for each in results)
    assert first["stays"] == second["stays"]
    assert first["stays"].startswith("attn1, attn2: published as sensitive")
    assert "kept" not in first
    assert sorted(second["kept"].split(", ")) == PARTS


def test_a_transform_reports_to_the_node_that_made_it(wan_folder, monkeypatch, tmp_path):
    real = Quantize.apply_with

    def reported(self: Any, others: Any, module: Any, run: Any, spare: Any = None) -> None:
        run.detail(applied=self.format)
        run.warn("applied")
        real(self, others, module, run, spare)

    monkeypatch.setattr(Quantize, "apply_with", reported)
    later = "  later: {uses: model.attention, with: {model: $NAME, backend: sdpa}}\n  text:"
    file = FILE.replace("model: $quick", "model: $later").replace("  text:", later, 1)
    file = file.replace(
        "model.attention, with: {model: $model, backend: sdpa}", "model.quantize, with: {model: $model}"
    )
    with sgd.session():
        for name in ("quick", "small"):  # the second run takes the view of the first, with nodes of other names
            path = tmp_path / f"{name}.yaml"
            path.write_text(file.replace("quick:", f"{name}:").replace("$NAME", f"${name}"))
            made = sgd.run(sgd.compile(path, inputs={"source": str(wan_folder)}), out=tmp_path / name, device="cpu")
            assert row(made, name)["detail"]["applied"] == "fp8"
            assert "applied" not in row(made, "later")["detail"]
            assert "transformer" in row(made, "later")["detail"]
            assert [each for each in made.record["warnings"] if "applied" in str(each)] == [f"{name}: applied"]


def test_a_choice_of_attention_is_kept_and_told(wan_folder, monkeypatch, tmp_path):
    from helpers.direct import DirectRun, model_of
    from sgd.nodes.models.attention import tuning
    from sgd.nodes.models.transforms.attention_transform import Attention

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = model_of(wan_folder, "scheduler")
    model.weights.keep_in(kept_weights.KeptWeights())
    value = model.transformed(Attention("transformer", ("native", "_native_math")))
    runs = [DirectRun() for _ in range(3)]
    inputs = torch.randn(1, 16, 2, 4, 4), torch.tensor([500]), torch.randn(1, 8, 32)
    measured = []
    monkeypatch.setattr(tuning, "fastest", lambda *given: (measured.append(given), tuning.Choice("native", {}, 0.5))[1])
    for run in runs:
        value.acquire("transformer", run)
        with torch.no_grad():
            for _ in range(2):
                value.component("transformer")(*inputs)
        value.release("transformer")
    assert len(measured) == 1
    assert [run.details["attention_choice"] for run in runs] == ["measured in 0.50 s", *["kept by the session"] * 2]
    assert [run.details["attention_seconds"] for run in runs] == [0.5, 0.0, 0.0]


def test_changed_weights_are_loaded_again(workflow, seen):
    file = next((workflow.source / "transformer").glob("*.safetensors"))
    with sgd.session():
        before = latents(workflow())
        seen.take()
        tensors = {name: tensor * 1.01 for name, tensor in load_file(file).items()}
        save_file(tensors, file.with_suffix(".new"), metadata={"format": "pt"})
        file.with_suffix(".new").replace(file)
        changed = workflow()
        assert seen.take() == ["transformer"]
        assert seen.alive() == 2, "the old transformer is gone"
    assert not torch.equal(latents(changed), before)
    assert torch.equal(latents(changed), latents(workflow()))


@pytest.mark.slow
def test_a_changed_configuration_loads_everything_again(workflow, seen):
    with sgd.session():
        workflow()
        seen.take()
        index = workflow.source / "model_index.json"
        index.write_text(index.read_text() + "\n")
        workflow()
        assert seen.take() == PARTS
        assert seen.alive() == 2


def test_a_failing_run_leaves_the_session_usable(workflow, seen, monkeypatch):
    from sgd.nodes.families.wan import Wan

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of luck")

    with sgd.session():
        good = latents(workflow())
        seen.take()
        with monkeypatch.context() as patch:
            patch.setattr(Wan, "predict", fail)
            failed = workflow()
        assert failed.status == "failed"
        again = workflow()
        assert seen.take() == ["transformer"], "what the failed node used is loaded again"
        assert torch.equal(latents(again), good)
    assert seen.alive() == 0


@pytest.mark.slow
def test_memory_that_was_short_is_free_for_the_next_run(workflow, seen, monkeypatch):
    from sgd.nodes.families.wan import Wan

    def exhausted(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError

    with sgd.session():
        workflow()
        with monkeypatch.context() as patch:
            patch.setattr(Wan, "predict", exhausted)
            assert workflow().status == "failed"
        assert seen.alive() == 0


@pytest.mark.slow
def test_idle_components_make_room(workflow, seen, monkeypatch):
    """The device seems to be full: before a component is loaded, all idle ones are dropped."""
    monkeypatch.setattr(kept_weights.device_memory, "free", lambda run: 0)
    with sgd.session():
        first, second = workflow(), workflow()
        assert "transformer" in seen.take()
        assert seen.alive() <= 1
    assert torch.equal(latents(first), latents(second))


def test_a_load_that_runs_out_of_memory_is_tried_again_without_idle_components(wan_folder, monkeypatch):
    from helpers.direct import DirectRun, model_of

    model = model_of(wan_folder, "scheduler")
    model.weights.keep_in(keeper := kept_weights.KeptWeights())
    keeper._all["x"] = ((), model.weights)
    model.acquire("text_encoder", DirectRun())
    model.release("text_encoder")
    real, failures = Weights.make, [1]

    def make(self, part, run, placed, smaller, early=None):
        if part == "transformer" and failures:
            failures.pop()
            raise torch.OutOfMemoryError
        return real(self, part, run, placed, smaller, early)

    monkeypatch.setattr(Weights, "make", make)
    model.acquire("transformer", DirectRun())
    assert [part for part, _ in model.weights._held] == ["scheduler", "transformer"]


def test_an_inner_session_is_the_outer_one(workflow, seen):
    with sgd.session():
        with sgd.session():
            workflow()
        seen.take()
        assert seen.alive() == 2
        workflow()
        assert seen.take() == []
    assert seen.alive() == 0


def test_a_thread_takes_part_only_in_its_own_session(workflow, seen):
    with sgd.session():
        workflow()
        seen.take()
        other = threading.Thread(target=workflow)
        other.start()
        other.join()
        assert seen.take() == PARTS
        assert seen.alive() == 2
        workflow()
        assert seen.take() == []


def test_of_two_runs_at_once_the_second_shares_nothing(workflow, seen):
    with sgd.session():
        workflow()
        seen.take()
        with sessions.taken() as (first, busy):
            assert (first is not None, busy) == (True, False)
            alone = workflow()
        assert alone.record["warnings"] == [sessions.BUSY]
        assert seen.take() == PARTS
        assert seen.alive() == 2


@pytest.mark.slow
def test_an_error_in_the_block_frees_everything(workflow, seen):
    def broken() -> None:
        with sgd.session():
            workflow()
            raise KeyError

    with pytest.raises(KeyError):
        broken()
    assert seen.alive() == 0
    workflow()
    assert seen.alive() == 0


def test_a_changed_adapter_is_merged_again(wan_folder, tmp_path):
    from helpers.direct import DirectRun, model_of
    from helpers.lora_files import adapters
    from sgd.nodes.models.transforms.lora_transform import Lora

    model = model_of(wan_folder, "scheduler")
    model.weights.keep_in(kept_weights.KeptWeights())
    file = adapters(tmp_path, "a.safetensors", 1)
    value = model.transformed(Lora("transformer", file, 1.0))
    found = []
    for seed in (1, 1, 2):
        if seed == 2:
            adapters(tmp_path, "new.safetensors", seed).replace(file)
        value.acquire("transformer", DirectRun())
        view = value.component("transformer")
        found.append((id(view), view.blocks[0].attn1.to_q.weight.clone()))
        value.release("transformer")
        del view
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])
    assert not torch.equal(found[1][1], found[2][1])


def test_after_an_interrupt_the_models_stay(workflow, seen, monkeypatch):
    """A step takes longer than `sgd exec` would wait for it. The run in a session waits for its end."""
    from diffusers import WanTransformer3DModel

    forward, slow = WanTransformer3DModel.forward, threading.Event()

    def interrupted(self: Any, *args: Any, **kwargs: Any) -> Any:
        if slow.is_set():
            slow.clear()
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(4 * GRACE_SECONDS)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(WanTransformer3DModel, "forward", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with sgd.session():
            plain = latents(workflow())
            assert seen.take() == PARTS
            slow.set()
            cut = workflow()
            assert (cut.status, cut.stuck, slow.is_set()) == ("interrupted", False, False)
            again = workflow()
            assert seen.take() == []
    finally:
        signal.signal(signal.SIGINT, before)
    assert torch.equal(latents(again), plain)


def test_what_a_node_still_uses_after_an_interrupt_is_forgotten(wan_folder):
    """The next run must not share a module with a thread that has not ended."""
    from helpers.direct import DirectRun, model_of
    from sgd.graph.contract.kept_values import Session
    from sgd.graph.runtime.run import _tidy
    from sgd.graph.runtime.run_result import Result

    session = Session()
    model = model_of(wan_folder, "scheduler")
    kept = session.keep(kept_weights.KEY, kept_weights.KeptWeights)
    assert kept.shared(model.weights, DirectRun()) is model.weights
    plan: Any = None
    _tidy(session, Result("interrupted", {}, {}, wan_folder, stuck=True), plan)
    assert session.keep(kept_weights.KEY, kept_weights.KeptWeights) is not kept
    model.release("scheduler")
    assert model.weights._held == {}, "at its release it is dropped"
