"""The second thread of a run on another GPU: values and models there, and two GPUs where a machine has them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import sgd
import torch
from helpers.direct import DirectRun, model_of
from helpers.overlapped import ONE_LOOP, TWO_LOOPS
from sgd.graph.contract.kept_values import Session
from sgd.graph.contract.ports import Port
from sgd.nodes.models.memory import kept_weights
from sgd.nodes.models.second_card import SecondCard, SecondModels, copier
from sgd.nodes.support.moved_values import Move
from sgd.nodes.values import Conditioning, Frames, Latents, Size

two_cards = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
TO_META = Move(copier(torch.device("cpu"), torch.device("meta")), lambda holder: holder)


@dataclass(frozen=True)
class Kept(Port):
    """A value that keeps what it has computed."""

    tensor: torch.Tensor
    name: str = "kept"

    @cached_property
    def doubled(self) -> torch.Tensor:
        return 2 * self.tensor


def test_tensors_of_a_value_move_and_the_rest_is_shared() -> None:
    size, mask = Size(8, 8), torch.ones(2, device="meta")
    latents = Latents(torch.ones(2, 3), "wan", size)
    moved = TO_META(latents)
    assert moved.tensor.is_meta
    assert moved.size is size
    assert not latents.tensor.is_meta
    text = Conditioning(MappingProxyType({"a": latents.tensor, "b": latents.tensor, "mask": mask}), None, "wan")
    there = TO_META(text)
    assert there.positive["a"] is there.positive["b"]
    assert there.positive["mask"] is mask
    assert list(there.positive) == ["a", "b", "mask"]
    pair = TO_META([(latents, 1), {"x": [latents.tensor]}])
    assert pair[0][0].tensor.is_meta
    assert pair[1]["x"][0].is_meta


def test_a_value_without_tensors_elsewhere_stays_itself() -> None:
    frames = Frames(torch.ones(1, 1, 2, 2, 3, device="meta"))
    for value in (frames, [frames], (frames, "a"), {"x": frames}, Path("a"), 3, None, Size(8, 8)):
        assert TO_META(value) is value


def test_what_a_value_has_computed_is_computed_again() -> None:
    kept = Kept(torch.ones(2))
    assert not kept.doubled.is_meta
    assert TO_META(kept).doubled.is_meta


def test_a_model_has_components_of_its_own_there(wan_folder: Path) -> None:
    run = DirectRun()
    model = model_of(wan_folder, "vae")
    models = SecondModels(run, "cpu")
    there = models.there(model)
    assert models.there(model).weights is there.weights is not model.weights
    assert models.there(there) is there
    assert models.back(there).weights is model.weights
    assert there.dtype("vae") == model.dtype("vae")
    there.acquire("vae", run)
    one, other = model.component("vae"), there.component("vae")
    assert one is not other
    for (name, before), (_, after) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        assert torch.equal(before, after), name
    model.release("vae")
    assert there.component("vae") is other
    there.release("vae")


def test_a_session_keeps_the_components_of_both_devices(wan_folder: Path) -> None:
    session, run = Session(), DirectRun()
    kept = session.keep(kept_weights.KEY, kept_weights.KeptWeights)
    model = model_of(wan_folder, "vae")
    kept.shared(model.weights, run)
    there = SecondModels(run, "cpu:1").there(model)
    there.acquire("vae", run)
    component = there.component("vae")
    there.release("vae")
    again = SecondModels(run, "cpu:1").there(model)
    again.acquire("vae", run)
    assert again.component("vae") is component
    again.release("vae")
    model.release("vae")
    assert kept.drop_oldest("cpu:1")
    assert not kept.drop_oldest("cpu:1")
    assert kept.drop_oldest("cpu")
    session.close()


CYCLES = 100_000_000
"""A GPU is busy for about 50 ms."""
SIZE = 1 << 24


def in_thread(work: Callable[[], Any]) -> Any:
    made: list[Any] = []
    thread = threading.Thread(target=lambda: made.append(work()))
    thread.start()
    thread.join()
    return made[0]


@two_cards
def test_values_go_to_the_second_gpu_and_come_back_in_order() -> None:
    run = DirectRun()
    run.device = "cuda"
    card = SecondCard(run, "cuda:1")
    with card.around():
        assert torch.ones(1, device="cuda").device == torch.device("cuda", 1)
    torch.cuda._sleep(CYCLES)
    held = [torch.zeros(SIZE, device="cuda").add_(1)]
    mark = card.given()

    def work() -> Any:
        with card.beside():
            assert torch.cuda.current_device() == 1
            card.taken(mark, held)
            there = card.there(held.pop())  # the last reference goes while the first GPU is busy
            assert there.device == torch.device("cuda", 1)
            torch.cuda._sleep(CYCLES)
            doubled = there * 2
            del there
            result = card.back(doubled)
            return card.given(), [result]

    back, made = in_thread(work)
    written = [torch.full((SIZE,), 7.0, device="cuda") for _ in range(4)]
    card.taken(back, made)
    assert made[0].device == torch.device("cuda", 0)
    assert bool((made[0] == 2).all())
    assert all(bool((each == 7).all()) for each in written)


@two_cards
def test_a_run_on_two_gpus_writes_the_same_clips(tmp_path: Path) -> None:
    for name, text in (("one", ONE_LOOP), ("two", TWO_LOOPS)):
        file = tmp_path / f"{name}.yaml"
        file.write_text(text)
        plan = sgd.compile(file)
        before = sgd.run(plan, out=tmp_path / f"{name}-without", device="cuda")
        after = sgd.run(plan, out=tmp_path / f"{name}-with", device="cuda", overlap="cuda:1")
        assert after.status == before.status == "done", after.error
        assert after.record["overlap_device"] == "cuda:1"
        clips = {path.name: path.read_bytes() for path in (tmp_path / f"{name}-without").glob("*.mp4")}
        assert len(clips) == 2
        assert {path.name: path.read_bytes() for path in (tmp_path / f"{name}-with").glob("*.mp4")} == clips
