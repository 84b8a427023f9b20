"""Noise, its size, and latents in files."""

import json
import struct
from functools import partial

import pytest
import torch
from helpers import node_facts
from helpers.direct import DirectRun
from safetensors.torch import save_file
from sgd.graph.contract.errors import NodeError
from sgd.nodes import latents
from sgd.nodes.values import Latents, Size

WAN = {"family": "wan", "configs": {"vae": {}, "transformer": {}}}
TI2V = {"family": "wan", "configs": {"vae": {"scale_factor_spatial": 16, "z_dim": 48}, "transformer": {}}}
SIZE = {"frames": 9, "batch": 1, "seed": [0]}


def test_a_clip_with_its_own_seed_does_not_depend_on_its_batch(wan_model):
    one = latents.noise(wan_model, width=32, height=32, frames=9, seed=[7])
    three = latents.noise(wan_model, width=32, height=32, frames=9, batch=3, seed=[5, 7, 6])
    assert torch.equal(one.tensor[0], three.tensor[1])
    assert not torch.equal(three.tensor[0], three.tensor[1])
    shared = latents.noise(wan_model, width=32, height=32, frames=9, batch=3, seed=[7])
    assert not torch.equal(shared.tensor[0], shared.tensor[1])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_noise_is_normal_in_the_layout_of_the_family(wan_model, dtype):
    made = latents.noise(wan_model, width=64, height=96, frames=17, batch=2, dtype=dtype)
    assert made.tensor.shape == (2, 16, 5, 12, 8)
    assert made.tensor.dtype == getattr(torch, dtype)
    assert made.size == Size(64, 96, 17)
    assert abs(made.tensor.float().mean()) < 0.05
    assert abs(made.tensor.float().std() - 1) < 0.05


def check(model=WAN, **known):
    known = {"width": 32, "height": 32} | SIZE | known
    return [(p.code, p.parameter, p.severity) for p in node_facts.check(latents.noise, model=model, **known)]


def test_a_rounded_size_is_a_warning_with_the_new_size():
    assert check() == []
    assert check(width=40) == [("bad-value", "width", "warning")]
    assert check(width=48) == []
    assert check(model=TI2V, width=48) == [("bad-value", "width", "warning")]
    assert check(height=33, frames=10) == [("bad-value", "height", "warning"), ("bad-value", "frames", "warning")]
    (problem,) = node_facts.check(latents.noise, model=WAN, width=850, height=480, frames=81, batch=1, seed=[0])
    assert "the width is rounded down to 848 (848x480, 81 frames)" in problem.message


def test_impossible_values_are_errors():
    assert check(width=15) == [("bad-value", "width", "error")]
    assert check(width=15, height=33) == [("bad-value", "width", "error")]
    assert check(seed=[1, 2], batch=3) == [("bad-value", "seed", "error")]
    assert check(seed=[1, 2], batch=2) == []
    assert check(seed=7, batch=2) == []


def test_unknown_values_give_no_diagnostic():
    assert check(model={}, width=33) == []
    assert list(node_facts.check(latents.noise, width=33)) == []
    assert list(node_facts.check(latents.noise, seed=[1, 2])) == []


def test_noise_is_described_by_family_batch_and_size():
    describe = partial(node_facts.describe, latents.noise)
    assert describe(model=WAN, width=832, height=480, frames=81, batch=2, seed=[0]) == {
        "family": "wan",
        "batch": 2,
        "size": [832, 480, 81],
    }
    assert describe(model=WAN, width=832, frames=81, batch=1) == {"family": "wan", "batch": 1}


def test_run_and_check_refuse_the_same_values(wan_model):
    with pytest.raises(NodeError, match="2 seeds for a batch of 3"):
        latents.noise(wan_model, width=32, height=32, batch=3, seed=[1, 2])
    with pytest.raises(NodeError, match="smaller than one patch"):
        latents.noise(wan_model, width=8, height=32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_file_gives_back_the_saved_values(run, dtype):
    given = Latents(torch.randn(2, 16, 3, 4, 6).to(dtype).transpose(3, 4), "wan", Size(48, 32, 9))
    file = latents.save(run, given, "deep/er/latents.safetensors")
    assert file.path == run.folder / "deep/er/latents.safetensors"
    assert [p.name for p in file.path.parent.iterdir()] == ["latents.safetensors"]
    back = latents.load(run, file.path)
    assert torch.equal(back.tensor, given.tensor)
    assert back.tensor.dtype == dtype
    assert (back.family, back.size) == ("wan", Size(48, 32, 9))
    assert node_facts.describe(latents.load, path=file.path) == {"family": "wan", "size": [48, 32, 9], "batch": 2}


def test_planning_loads_latents_on_the_meta_device(run):
    file = latents.save(run, Latents(torch.zeros(1, 16, 3, 4, 4), "wan", Size(32, 32, 9)), "l.safetensors")
    planning = DirectRun()
    planning.device = "meta"
    assert latents.load(planning, file.path).tensor.is_meta


def damaged(tmp_path, run):
    good = latents.save(run, Latents(torch.zeros(1, 16, 3, 4, 4), "wan", Size(32, 32, 9)), "l.safetensors").path
    data = good.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    foreign = tmp_path / "foreign.safetensors"
    save_file({"latents": torch.zeros(3)}, foreign)
    other = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(3)}, other, metadata=header["__metadata__"])
    contents = {
        "empty": b"",
        "short": data[:4],
        "cut-header": data[:40],
        "cut-data": data[:-1],
        "text": b"this is not a file of latents",
        "huge-header": struct.pack("<Q", 2**60) + data[8:],
        "list": struct.pack("<Q", 2) + b"[]",
        "foreign": foreign.read_bytes(),
        "other": other.read_bytes(),
        "no-size": None,
    }
    save_file({"latents": torch.zeros(3)}, foreign, metadata={"format": latents.FORMAT})
    contents["no-size"] = foreign.read_bytes()
    return contents


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("empty", "is empty"),
        ("short", "is truncated"),
        ("cut-header", "is truncated"),
        ("cut-data", "is truncated"),
        ("text", "is not a safetensors file"),
        ("huge-header", "is not a safetensors file"),
        ("list", "is not a safetensors file"),
        ("foreign", "has tensors, but `latents.save` did not write it"),
        ("other", "is not a file of latents"),
        ("no-size", "lacks the family"),
    ],
)
def test_a_bad_file_is_an_error_with_its_reason(tmp_path, run, kind, message):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(damaged(tmp_path, run)[kind])
    assert node_facts.describe(latents.load, path=path) == {}
    (problem,) = node_facts.check(latents.load, path=str(path))
    assert (problem.code, problem.parameter) == ("bad-value", "path")
    assert message in problem.message
    with pytest.raises(NodeError, match=message):
        latents.load(run, path)


def test_a_missing_file_and_a_folder_are_an_error(tmp_path, run):
    with pytest.raises(NodeError, match="there is no file"):
        latents.load(run, tmp_path / "none.safetensors")
    with pytest.raises(NodeError, match="cannot be read"):
        latents.load(run, tmp_path)


def test_other_extensions_are_refused(run):
    assert [p.parameter for p in node_facts.check(latents.save, path="x.pt")] == ["path"]
    assert not list(node_facts.check(latents.save, path="x.safetensors"))
    with pytest.raises(NodeError, match=r"not as \.pt"):
        latents.save(run, Latents(torch.zeros(1), "wan", Size(1, 1)), "x.pt")


def test_an_interrupted_save_leaves_no_file(run, monkeypatch):
    import safetensors.torch

    def interrupted(tensors, path, metadata):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(safetensors.torch, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        latents.save(run, Latents(torch.zeros(1), "wan", Size(1, 1)), "x.safetensors")
    assert list(run.folder.iterdir()) == []
