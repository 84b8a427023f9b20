"""Copies through pinned buffers are exact, and no buffer is filled while a GPU still reads it."""

from __future__ import annotations

import pytest
import torch
from sgd.nodes.models.repository import early_tensors, staging
from sgd.nodes.models.repository.staging import Buffer, Staging


class LateGpu:
    """Does each copy as late as a GPU may: when the event after it is waited for."""

    def __init__(self) -> None:
        self.pending: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.waits = 0

    def send(self, target: torch.Tensor, content: torch.Tensor) -> None:
        self.pending.append((target, content))

    def event(self) -> LateEvent:
        return LateEvent(self)


class LateEvent:
    def __init__(self, gpu: LateGpu) -> None:
        self.gpu, self.noted = gpu, 0
        self.copies: list[tuple[torch.Tensor, torch.Tensor]] = []

    def record(self) -> None:
        self.copies = self.gpu.pending[:]

    def synchronize(self) -> None:
        self.gpu.waits += 1
        for target, content in self.copies:
            if any(target is each for each, _ in self.gpu.pending):
                target.copy_(content)
        self.gpu.pending = [pair for pair in self.gpu.pending if not any(pair[0] is each for each, _ in self.copies)]


def late(size: int, count: int = 2) -> tuple[LateGpu, list[Buffer], Staging]:
    gpu = LateGpu()
    buffers = [Buffer(torch.empty(size, dtype=torch.uint8), gpu.event()) for _ in range(count)]
    return gpu, buffers, Staging("cpu", buffers, gpu.send)


TENSORS = (
    torch.arange(1000, dtype=torch.float32).view(10, 100),
    torch.randn(7, 33).bfloat16(),
    torch.randn(6, 8).t(),
    torch.tensor(3.5, dtype=torch.float64),
    torch.randint(0, 256, (513,)).to(torch.uint8).view(torch.float8_e4m3fn),
    torch.empty(0, 4),
    torch.tensor([True, False, True]),
)


@pytest.mark.parametrize("size", [64, 100, 4096])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_each_tensor_has_its_own_bits(size, count):
    gpu, buffers, staged = late(size, count)
    made = [staged.on_device(tensor) for tensor in TENSORS]
    for buffer in buffers:
        buffer.read.synchronize()
    assert not gpu.pending
    for ours, theirs in zip(made, TENSORS, strict=True):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        assert torch.equal(ours.contiguous().view(-1).view(torch.uint8), theirs.reshape(-1).view(torch.uint8))


def test_the_next_buffer_is_filled_while_one_is_read():
    gpu, _, staged = late(1000)
    staged.on_device(torch.zeros(2000, dtype=torch.uint8))
    assert len(gpu.pending) == 2  # neither copy was waited for
    staged.on_device(torch.zeros(10, dtype=torch.uint8))
    assert len(gpu.pending) == 2


def test_early_tensors_go_through_the_buffers(wan_folder, monkeypatch):
    from diffusers import WanTransformer3DModel

    module = WanTransformer3DModel.from_pretrained(wan_folder, subfolder="transformer")
    files = sorted((wan_folder / "transformer").glob("*.safetensors"))
    gpu, buffers, staged = late(512)
    monkeypatch.setattr(early_tensors, "staging", lambda device: staged)
    tensors = early_tensors.read(module, files, "cpu", bool)
    for buffer in buffers:
        buffer.read.synchronize()
    assert gpu.waits > len(tensors)
    assert all(torch.equal(tensors[name], value) for name, value in module.state_dict().items())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_reads_the_same_bits():
    staged = staging.staging("cuda")
    assert staged is not None
    tensor = torch.randint(0, 256, (3 * staging.SIZE + 5,), dtype=torch.uint8)
    with early_tensors.own_stream("cuda"):
        made = [staged.on_device(tensor + number) for number in range(3)]
    assert all(torch.equal(each.cpu(), tensor + number) for number, each in enumerate(made))


def test_other_devices_need_no_buffers():
    assert staging.staging("cpu") is None
