"""A run takes no more memory than diffusers' pipeline: it holds components in turn, the pipeline holds all of them."""

import platform
import sys

import pytest
import torch
from benchmarks import memory
from sgd.nodes.models.memory import host_memory as host
from torch import nn

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@pytest.mark.slow
@LINUX
def test_a_run_peaks_no_higher_than_the_pipeline(tmp_path):
    sizes = memory.build(tmp_path / "wan")
    (ours, pixels), (theirs, expected) = (memory.measured(side, tmp_path / "wan") for side in memory.SIDES)
    assert max(abs(a - b) for a, b in zip(pixels, expected, strict=True)) <= 0.5 / 255 + 1e-4, "the clips differ"
    assert theirs > sum(sizes.values()), "the pipeline holds all components"
    assert ours <= 1.02 * theirs
    # Components that are not in use are not in memory. 0.35 of the sum is for activations and the allocator.
    assert ours < max(sizes.values()) + 0.35 * sum(sizes.values())


@LINUX
def test_aligning_parameters_releases_the_pages_of_their_file(tmp_path):
    """Without the release, the file's pages and the copies of the parameters take twice a component's memory."""
    from safetensors.torch import load_file, save_file

    size = 24
    layers = {f"{n}.weight": torch.randn(1024, 1024) for n in range(size // 4)}
    save_file(layers | {"0.bias": torch.randn(3)}, tmp_path / "w.safetensors")
    loaded = load_file(tmp_path / "w.safetensors")
    module = nn.ParameterDict({name.replace(".", "_"): nn.Parameter(t) for name, t in loaded.items()})
    del loaded
    if all(p.data_ptr() % host.ALIGNMENT == 0 for p in module.values()):
        pytest.skip("this version of safetensors aligns by itself")
    torch.randn(1024, 1024)
    before = memory.reset()
    host.align(module, [tmp_path / "w.safetensors"])
    peak = memory.high_water() - before
    assert peak < 1.5 * size * 2**20 / 1e6
    assert all(p.data_ptr() % host.ALIGNMENT == 0 for p in module.values())
    assert all(torch.equal(module[name.replace(".", "_")], tensor) for name, tensor in layers.items())


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc_trim is glibc's")
def test_trim_returns_freed_memory_to_the_system():
    """glibc keeps freed pieces that lie below a piece in use; here every second piece stays in use."""
    pieces = [torch.ones(1 << 14) for _ in range(1000)]  # 64 kB each, less than glibc maps by itself
    kept = pieces[::2]
    full = memory.status("VmRSS")
    del pieces
    host.trim()
    assert full - memory.status("VmRSS") > 0.8 * 500 * 0.065
    assert all(torch.equal(piece, torch.ones(1 << 14)) for piece in kept)


@LINUX
def test_only_pages_of_the_files_are_released(tmp_path):
    """Releasing other memory would lose its values."""
    base = torch.arange(1 << 16, dtype=torch.float32)
    module = nn.ParameterDict({"view": nn.Parameter(base[1:])})
    (tmp_path / "other").write_bytes(b"x" * 8192)
    host.align(module, [tmp_path / "other"])
    assert torch.equal(base, torch.arange(1 << 16, dtype=torch.float32))
    assert torch.equal(module["view"], base[1:])
    assert host.mapped([tmp_path / "other"]) == []


@pytest.mark.parametrize(
    ("start", "size", "pages"),
    [
        (0x1008, 0x3000, (0x2000, 0x2000)),
        (0x1000, 0x1000, (0x1000, 0x1000)),
        (0x1008, 0x1000, None),
        (0x0FF8, 0x3000, None),
        (0x7008, 0x1000, None),
    ],
    ids=["inside", "one", "less-than-a-page", "begins-before", "ends-behind"],
)
def test_released_pages_lie_inside_a_mapping(monkeypatch, start, size, pages):
    monkeypatch.setattr(host.mmap, "PAGESIZE", 0x1000)
    assert host._pages(start, size, [(0x1000, 0x8000)]) == pages
