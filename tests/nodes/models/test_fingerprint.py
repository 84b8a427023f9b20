"""Fingerprints of weights: small files are read whole, large files are sampled."""

from __future__ import annotations

import hashlib

import pytest
import torch
from safetensors.torch import save_file
from sgd.graph.contract.errors import NodeError
from sgd.nodes.models.repository import fingerprint


def saved(path, seed=0, **more):
    generator = torch.Generator().manual_seed(seed)
    save_file({"a": torch.randn(64, 64, generator=generator), "b": torch.zeros(3)} | more, path)
    return path


def test_the_fingerprint_follows_its_documentation(tmp_path):
    path = saved(tmp_path / "a.safetensors")
    content = path.read_bytes()
    one = hashlib.sha256(len(content).to_bytes(8, "little") + content).digest()
    assert fingerprint.of_files([path]) == f"sha256:{hashlib.sha256(one).hexdigest()}"
    assert fingerprint.of_files([path, path]) == f"sha256:{hashlib.sha256(one + one).hexdigest()}"


def test_every_byte_changes_the_fingerprint_and_names_do_not(tmp_path):
    path = saved(tmp_path / "a.safetensors")
    known = fingerprint.of_files([path])
    assert fingerprint.of_files([saved(tmp_path / "b.safetensors")]) == known
    assert fingerprint.of_files([saved(tmp_path / "c.safetensors", seed=1)]) != known
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert fingerprint.of_files([path]) != known


@pytest.fixture
def sampled(monkeypatch):
    monkeypatch.setattr(fingerprint, "WHOLE_LIMIT", 1000)
    monkeypatch.setattr(fingerprint, "SAMPLE_BYTES", 64)
    fingerprint._of_file.cache_clear()


def test_large_files_are_sampled(tmp_path, sampled):
    path = saved(tmp_path / "a.safetensors")
    known = fingerprint.of_files([path])
    assert fingerprint.of_files([saved(tmp_path / "b.safetensors")]) == known
    assert fingerprint.of_files([saved(tmp_path / "c.safetensors", seed=1)]) != known
    assert fingerprint.of_files([saved(tmp_path / "d.safetensors", b=torch.zeros(1, 3))]) != known  # header
    content = path.read_bytes()
    seen = 0
    for place in range(0, len(content), 8):
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        fingerprint._of_file.cache_clear()
        seen += fingerprint.of_files([path]) != known
    header = 8 + int.from_bytes(content[:8], "little")
    assert seen == pytest.approx((header + fingerprint.SAMPLES * 64) / 8, abs=fingerprint.SAMPLES + 1)
    for place in (header, len(content) - 1):  # both ends of the sampled bytes
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        fingerprint._of_file.cache_clear()
        assert fingerprint.of_files([path]) != known


def test_the_fingerprint_uses_the_files_that_loading_reads(tmp_path):
    plain = fingerprint.of_files([saved(tmp_path / "diffusion_pytorch_model.safetensors")])
    assert fingerprint.of_weights(tmp_path, None) == plain
    assert fingerprint.of_weights(tmp_path, "fp16") == plain  # loading uses the ordinary files too, with a warning
    half = fingerprint.of_files([saved(tmp_path / "diffusion_pytorch_model.fp16.safetensors", seed=2)])
    assert fingerprint.of_weights(tmp_path, "fp16") == half != plain


def test_missing_files(tmp_path):
    assert fingerprint.of_weights(tmp_path / "none", None) is None
    assert fingerprint.of_weights(tmp_path, None) is None
    with pytest.raises(NodeError, match="cannot read"):
        fingerprint.of_files([tmp_path / "none.safetensors"])
