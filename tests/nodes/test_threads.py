"""Runs and plans in several threads of one process: each is as it is alone, and nothing stays changed."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sgd
import torch
from helpers import tiny
from safetensors.torch import load_file
from sgd.graph.contract import process_state
from sgd.graph.contract.process_state import ProcessState, exclusive, shared
from sgd.graph.language.registry import installed
from sgd.graph.runtime.estimate import estimate
from sgd.nodes.models.attention import processors
from sgd.nodes.models.repository import dummy
from sgd.nodes.support.quiet import QuietLogger, quiet

FLOW = """
sgd: 1
name: threads
inputs:
  source: {type: str}
  dtype: {enum: [float32, bfloat16, float16], default: float32}
  seed: {type: int, default: 1}
  steps: {type: int, default: 3}
  guider: {enum: [cfg, apg, cfg_zero_star], default: cfg}
nodes:
  loaded: {uses: model.load, with: {source: $source, dtype: $dtype, vae_dtype: float32}}
  model: {uses: model.attention, with: {model: $loaded, backend: sdpa}}
  text: {uses: text.encode, with: {model: $model, prompt: ["a circle"], negative: dark, max_length: 16}}
  noise: {uses: latents.noise, with: {model: $model, width: 32, height: 32, frames: 5, seed: $seed}}
  schedule: {uses: schedule.make, with: {model: $model, steps: $steps}}
  denoise:
    for: {step: $schedule}
    carry: {latents: $noise}
    body:
      split: {uses: cfg.split, with: {conditioning: $text, scale: 5.0, guider: $guider}}
      velocity: {uses: denoiser.predict, with: {model: $model, latents: $latents, step: $step, branches: $split}}
      guided: {uses: cfg.merge, with: {predictions: $velocity, branches: $split}}
      next:
        uses: schedule.step
        with: {schedule: $schedule, step: $step, latents: $latents, velocity: $guided}
    yield: {latents: $next}
  kept: {uses: latents.save, with: {latents: $denoise, path: latents.safetensors}}
  frames: {uses: vae.decode, with: {model: $model, latents: $denoise}}
  sheet: {uses: frames.grid, with: {frames: $frames, gap: 0, every: 1}}
  image: {uses: image.save, with: {frames: $sheet, path: sheet.png}}
outputs: {kept: $kept, image: $image}
"""
VARIANTS: list[dict[str, Any]] = [
    {"dtype": "bfloat16", "seed": 1, "steps": 3, "guider": "apg"},
    {"dtype": "float32", "seed": 2, "steps": 4, "guider": "cfg"},
    {"dtype": "float16", "seed": 3, "steps": 2, "guider": "cfg_zero_star"},
]
ROUNDS = 4


def together(*works: Callable[[], Any]) -> list[Any]:
    """Call functions at the same time, each in a thread; their results, or the first error."""
    results: list[Any] = [None] * len(works)
    errors: list[BaseException] = []
    gate = threading.Barrier(len(works))

    def call(index: int) -> None:
        try:
            gate.wait(20)
            results[index] = works[index]()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=call, args=(index,)) for index in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


def process_wide() -> dict[str, Any]:
    """State that torch, diffusers, transformers and Python keep for the whole process."""
    import diffusers.utils.logging as diffusers_logging
    import torch.utils._device
    import transformers
    import transformers.utils.logging as transformers_logging
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry
    from transformers.initialization import TORCH_INIT_FUNCTIONS

    return {
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "current": torch.utils._device.CURRENT_DEVICE,
        "register_parameter": torch.nn.Module.register_parameter,
        "register_buffer": torch.nn.Module.register_buffer,
        "inits": {name: getattr(torch.nn.init, name) for name in TORCH_INIT_FUNCTIONS},
        "init_weights": transformers.PreTrainedModel.init_weights,
        "tie_weights": transformers.PreTrainedModel.tie_weights,
        "attention": torch.nn.functional.scaled_dot_product_attention,
        "backend": _AttentionBackendRegistry.get_active_backend()[0],
        "made": (torch.empty(1).device.type, torch.empty(1).dtype, torch.nn.Linear(1, 1).weight.device.type),
        "verbosity": (diffusers_logging.get_verbosity(), transformers_logging.get_verbosity()),
        "bars": transformers_logging.is_progress_bar_enabled(),
        "guiders": logging.getLogger("diffusers.guiders.guider_utils").level,
        "warnings": list(warnings.filters),
        "environment": dict(os.environ),
        "gradients": torch.is_grad_enabled(),
    }


@pytest.fixture(scope="module")
def workflow(wan_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    file = tmp_path_factory.mktemp("flow") / "threads.yaml"
    file.write_text(FLOW)
    return lambda **values: sgd.compile(file, inputs={"source": str(wan_folder), **values})


def made(plan: Any, out: Path) -> dict[str, bytes]:
    result = sgd.run(plan, out=out)
    assert result.status == "done", result.error
    latents = load_file(out / "latents.safetensors")["latents"]  # the order of its metadata is another each time
    return {"sheet.png": (out / "sheet.png").read_bytes(), "latents": latents.numpy().tobytes()}


def test_three_runs_in_threads_equal_three_alone_while_others_compile_and_plan(
    workflow: Callable[..., Any], tmp_path: Path
) -> None:
    alone = [made(workflow(**given), tmp_path / f"alone-{n}") for n, given in enumerate(VARIANTS)]
    assert len({files["latents"] for files in alone}) == 3
    planned = [estimate(workflow(**given)) for given in VARIANTS]
    before = process_wide()
    over = threading.Event()

    def run(index: int) -> list[dict[str, bytes]]:
        outs = [tmp_path / f"{index}-{turn}" for turn in range(ROUNDS)]
        return [made(workflow(**VARIANTS[index]), out) for out in outs]

    def plan() -> int:
        count = 0
        while not over.is_set() and count < 200:
            index = count % len(VARIANTS)
            assert estimate(workflow(**VARIANTS[index])) == planned[index]
            count += 1
        return count

    def runs() -> list[Any]:
        try:
            return together(*(lambda index=index: run(index) for index in range(3)))  # type: ignore[misc]
        finally:
            over.set()

    found, plans = together(runs, plan)
    assert plans > 2
    for index, turns in enumerate(found):
        for turn in turns:
            assert turn == alone[index]
    after = process_wide()
    assert {name: after[name] for name in before if after[name] != before[name]} == {}


def test_dummy_weights_that_threads_make_are_those_made_alone(wan_folder: Path) -> None:
    from diffusers import WanTransformer3DModel

    config = WanTransformer3DModel.load_config(wan_folder / "transformer")

    def weights(dtype: torch.dtype) -> dict[str, torch.Tensor]:
        return dict(dummy.dummy_module(WanTransformer3DModel, config, dtype, "cpu").state_dict())

    dtypes = [torch.float32, torch.bfloat16, torch.float16]
    alone = [weights(dtype) for dtype in dtypes]
    before = process_wide()
    for _ in range(5):
        for expected, found in zip(alone, together(*(lambda d=d: weights(d) for d in dtypes)), strict=True):  # type: ignore[misc]
            assert all(torch.equal(expected[name], found[name]) for name in expected)
            assert {t.dtype for t in found.values()} == {t.dtype for t in expected.values()}
    assert process_wide() == before


def test_planning_changes_nothing_that_another_thread_sees(workflow: Callable[..., Any]) -> None:
    plans = [workflow(**given) for given in VARIANTS]
    for plan in plans:
        estimate(plan)  # the first time, packages are imported
    quiet_alone = {"verbosity", "bars", "guiders"}  # loggers of libraries are quiet meanwhile, in all threads
    before = {name: value for name, value in process_wide().items() if name not in quiet_alone}
    over = threading.Event()
    seen: list[str] = []

    def watch() -> int:
        looks = 0
        while not over.is_set():
            now = process_wide()
            seen.extend(name for name in before if now[name] != before[name])
            looks += 1
            time.sleep(0.0005)
        return looks

    def estimates() -> None:
        try:
            for each in plans:
                estimate(each)
        finally:
            over.set()

    looks, _ = together(watch, estimates)
    assert looks > 20
    assert seen == []


def test_each_thread_computes_with_its_own_attention(wan_folder: Path) -> None:
    """Choosing a backend also changes diffusers' default for a moment."""
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as Registry

    used: dict[int, set[str]] = {}
    names = ["native", "_native_math", "native", "_native_math"]
    modules = [tiny.wan_transformer() for _ in names]
    plain = tiny.wan_transformer()
    given = {
        "hidden_states": torch.randn(1, 16, 2, 8, 8, generator=torch.Generator().manual_seed(0)),
        "timestep": torch.tensor([500]),
        "encoder_hidden_states": torch.randn(1, 6, 32, generator=torch.Generator().manual_seed(1)),
    }

    def compute(module: Any) -> torch.Tensor:
        with torch.no_grad(), shared():
            used.setdefault(threading.get_ident(), set()).add(str(Registry.get_active_backend()[0].value))
            return module(**given, return_dict=False)[0]

    def work(module: Any, name: str) -> list[torch.Tensor]:
        found = []
        for _ in range(30):
            with shared():
                processors.choose(module, name)
            found.append(compute(module))
            assert processors.chosen(module) == {name}
        return found

    alone = [work(module, name)[0] for module, name in zip(modules, names, strict=True)]
    expected = compute(plain)
    used.clear()
    works: list[Callable[[], Any]] = [lambda m=m, n=n: work(m, n) for m, n in zip(modules, names, strict=True)]  # type: ignore[misc]
    *found, default = together(*works, lambda: [compute(plain) for _ in range(60)])
    for first, turns in zip(alone, found, strict=True):
        assert all(torch.equal(first, turn) for turn in turns)
    assert all(torch.equal(expected, turn) for turn in default)
    assert set().union(*used.values()) == {"native"}


def test_a_backend_set_again_by_other_code_still_computes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its choice of kernels is that of the process: another thread would compute with it."""
    from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

    held: list[bool] = []

    def attend(query: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        held.append(process_state._STATE._owner == threading.get_ident())
        return query

    module = tiny.wan_transformer()
    processors.choose(module, "_native_math")
    monkeypatch.setitem(_AttentionBackendRegistry._backends, AttentionBackendName._NATIVE_MATH, attend)
    for _ in range(2):
        processors.choose(module, "_native_math")
    query = torch.zeros(1, 2, 1, 4)
    _AttentionBackendRegistry._backends[AttentionBackendName._NATIVE_MATH](query, query, query)
    assert held == [True]


def test_blocks_that_quieten_a_logger_restore_it_in_any_order() -> None:
    logger, switch = logging.getLogger("sgd.tests.threads"), QuietLogger("sgd.tests.threads")
    logger.setLevel(logging.INFO)
    first, second = switch.held(), switch.held()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert logger.level == logging.ERROR
    second.__exit__(None, None, None)
    assert logger.level == logging.INFO
    before = process_wide()
    one, other = quiet(), quiet()
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    other.__exit__(None, None, None)
    assert process_wide() == before


# the lock itself


def test_one_thread_alone_or_many_together() -> None:
    state = ProcessState()
    inside: list[str] = []
    wrong: list[list[str]] = []

    @contextmanager
    def noted(kind: str) -> Iterator[None]:
        inside.append(kind)
        now = list(inside)
        if "alone" in now and len(now) > 1:
            wrong.append(now)
        yield
        inside.remove(kind)

    def work() -> None:
        for _ in range(100):
            with state.shared():
                with noted("shared"), state.shared():
                    pass
                with state.exclusive(), noted("alone"), state.exclusive():
                    pass
                with noted("shared"):
                    pass
                with state.released():
                    pass

    together(*[work] * 4)
    assert wrong == []
    assert inside == []


def test_two_threads_that_share_can_both_become_alone() -> None:
    state, gate = ProcessState(), threading.Barrier(2)
    seen: list[str] = []

    def work() -> None:
        with state.shared():
            gate.wait(10)
            with state.exclusive():
                seen.append("in")
                time.sleep(0.02)
                seen.append("out")

    together(work, work)
    assert seen == ["in", "out", "in", "out"]


def test_a_download_does_not_keep_others_from_being_alone() -> None:
    state, downloading, alone = ProcessState(), threading.Event(), threading.Event()

    def download() -> None:
        with state.shared(), state.released():
            downloading.set()
            assert alone.wait(10)

    def load() -> None:
        assert downloading.wait(10)
        with state.exclusive():
            alone.set()

    together(download, load)


def test_a_node_that_runs_a_workflow_waits_without_its_share(tmp_path: Path) -> None:
    (tmp_path / "nodes.py").write_text(
        """
import sgd
from sgd.graph.contract.node import node
from sgd.graph.contract.process_state import exclusive
from sgd.graph.language.registry import installed
from pathlib import Path

@node("nest.alone")
def alone() -> int:
    "Is alone."
    with exclusive():
        return 7

@node("nest.outer")
def outer(here: str) -> int:
    "Runs another file."
    library = installed((Path(here) / "nodes.py",))
    return sgd.run(sgd.compile(Path(here) / "inner.yaml", library=library), out=Path(here) / "in").outputs["x"]
"""
    )
    (tmp_path / "inner.yaml").write_text("sgd: 1\nnodes: {a: {uses: nest.alone}}\noutputs: {x: $a}\n")
    (tmp_path / "outer.yaml").write_text(
        f"sgd: 1\nnodes: {{a: {{uses: nest.outer, with: {{here: {tmp_path}}}}}}}\noutputs: {{x: $a}}\n"
    )
    library = installed((tmp_path / "nodes.py",))
    result = sgd.run(sgd.compile(tmp_path / "outer.yaml", library=library), out=tmp_path / "out")
    assert result.outputs == {"x": 7}, result.error


def test_a_block_that_raises_leaves_the_lock_free() -> None:
    for block in (shared, exclusive):
        with pytest.raises(ValueError, match="no"), block():
            raise ValueError("no")
    with exclusive(), shared():
        pass


@pytest.mark.slow
def test_three_threads_that_import_everything_first(tmp_path: Path, wan_folder: Path) -> None:
    """The packages are imported by the runs themselves, all at once, in a new process."""
    (tmp_path / "threads.yaml").write_text(FLOW)
    code = f"""
import threading
import sgd
results = []
def work(n):
    plan = sgd.compile("threads.yaml", inputs={{"source": {str(wan_folder)!r}, "seed": n}})
    results.append(sgd.run(plan, out=f"out-{{n}}"))
threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert [r.status for r in results] == ["done"] * 3, [str(r.error) for r in results]
"""
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        for folder in tmp_path.glob("out-*"):
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()
