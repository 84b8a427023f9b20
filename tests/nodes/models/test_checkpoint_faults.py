"""Faults of one-file checkpoints: `sgd check` names them from the header, and loading says the same."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from helpers import checkpoint_layouts as layouts
from helpers import node_facts, tiny, tiny_flux
from helpers.direct import DirectRun
from safetensors.torch import load_file, save_file
from sgd.graph.contract.errors import NodeError
from sgd.nodes.models.checkpoints import checkpoint_header
from sgd.nodes.models.nodes.model_load import load


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder of configurations, and a transformer in one file beside it."""
    module = layouts.filled(tiny.wan_transformer())
    made = tmp_path_factory.mktemp("faults")
    layouts.source(made / "model", "WanPipeline", transformer=module, vae=tiny.wan_vae())
    save_file({key: tensor.contiguous() for key, tensor in layouts.wan(module.state_dict()).items()}, made / "good")
    return made


def problems(model: Path, file: Path, part: str = "transformer") -> list[tuple[str, str, str]]:
    """Severity, message and help of what `sgd check` finds; loading raises the first error, and warns of the others."""
    found = node_facts.check(load, source=str(model / "model"), **{part: str(file)})
    assert all(problem.parameter == part for problem in found)
    errors = [problem.message for problem in found if problem.severity == "error"]
    run = DirectRun()
    try:
        load(run, str(model / "model"), **{part: str(file)}).acquire(part, run)
        raised = []
    except NodeError as error:
        raised = [str(error)]
    assert raised == errors[:1]
    if not errors:
        assert set(run.warnings) == {problem.message for problem in found}
    return [(problem.severity, problem.message, problem.help or "") for problem in found]


def edited(model: Path, file: Path, **changes: torch.Tensor | None) -> Path:
    """The good file with tensors replaced, or removed where the change is None."""
    stored = load_file(model / "good") | changes
    save_file({key: tensor for key, tensor in stored.items() if tensor is not None}, file)
    return file


def test_a_missing_file(model, tmp_path):
    [(severity, message, help)] = problems(model, tmp_path / "nowhere.safetensors")
    assert (severity, message) == ("error", f"there is no file {tmp_path / 'nowhere.safetensors'}")
    assert "relative to the workflow file" in help


def test_a_folder(model):
    [(_, message, help)] = problems(model, model / "model")
    assert "is a folder; a checkpoint is one file" in message
    assert "`source` of model.load" in help


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_file_is_refused_and_not_read(zipped, model, tmp_path):
    file = tmp_path / "model.ckpt"
    torch.save({"a": torch.ones(2)}, file, _use_new_zipfile_serialization=zipped)
    [(_, message, help)] = problems(model, file)
    assert message == f"{file} is a pickled file, which can run code when it is read"
    assert "safetensors or GGUF" in help


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a pointer of Git LFS"),
        (b"<!DOCTYPE html><html></html>", "is neither a safetensors file nor a GGUF file"),
        (b"\x10" * 4000, "is neither a safetensors file nor a GGUF file"),
        (b"tjgg" + bytes(100), "is a GGML file, the format before GGUF"),
        (b"GGUF", "is truncated"),
        (b"GGUF" + struct.pack("<I", 1) + bytes(100), "is a GGUF file of version 1"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(100), "is a GGUF file for big-endian machines"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0), "is a damaged GGUF file: it states"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**62), "is a damaged GGUF file: it has a text"),
        (struct.pack("<Q", 10**6) + b'{"a": ', "is truncated"),
        (struct.pack("<Q", 8) + b'{"a": 1}', "is not a safetensors file"),
        (struct.pack("<Q", 2) + b"{}", "is not a checkpoint of transformer"),
    ],
)
def test_a_file_without_a_checkpoint(content, message, model, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(content)
    [(severity, found, help)] = problems(model, file)
    assert severity == "error"
    assert message in found
    assert help or "versions 2 and 3 are read" in found


@pytest.mark.parametrize("lost", [1, 1000, 100_000])
def test_a_truncated_file(lost, model, tmp_path):
    file = shutil.copy(model / "good", tmp_path / "file.safetensors")
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size - lost)
    [(_, message, help)] = problems(model, file)
    assert f"{file} is truncated" in message
    assert "download" in help


def test_a_tensor_whose_bytes_are_not_its_shape(model, tmp_path):
    """Such a file loads in a reader that trusts the shape, with numbers of another tensor."""
    content = bytearray((model / "good").read_bytes())
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["patch_embedding.bias"]["shape"] = [3]
    text = json.dumps(header, separators=(",", ":")).encode().ljust(length)
    (tmp_path / "file").write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    [(_, message, _)] = problems(model, tmp_path / "file")
    assert "patch_embedding.bias" in message
    assert "96 bytes" in message


def test_missing_parameters_are_named_and_counted(model, tmp_path):
    names = [f"blocks.0.self_attn.{letter}.weight" for letter in "qkvo"]
    [(severity, message, _)] = problems(model, edited(model, tmp_path / "file", **dict.fromkeys(names)))
    assert severity == "error"
    assert (
        "lacks 4 of the 69 parameters of transformer: blocks.0.attn1.to_q.weight, blocks.0.attn1.to_k.weight" in message
    )
    assert message.endswith("…")


def test_tensors_for_layers_that_the_model_lacks_are_named_in_a_warning(model, tmp_path):
    more = {"ref_conv.weight": torch.ones(2), "blocks.7.self_attn.q.weight": torch.ones(2)}
    [(severity, message, help)] = problems(model, edited(model, tmp_path / "file", **more))
    assert severity == "warning"
    assert "2 tensors (blocks.7.self_attn.q.weight, ref_conv.weight) are for nothing that transformer has" in message
    assert help.startswith("they are not used")


def test_wrong_shapes_are_named(model, tmp_path):
    wrong = {"blocks.1.ffn.0.weight": torch.ones(24, 32), "head.head.bias": torch.ones(5)}
    [(severity, message, help)] = problems(model, edited(model, tmp_path / "file", **wrong))
    assert severity == "error"
    assert "has the shape" in message
    assert "blocks.1.ffn.net.0.proj.weight needs 32×24" in message or "proj_out.bias needs 64" in message
    assert "1 tensor (" in message
    assert "`source`" in help


def test_a_name_of_any_length_is_short_in_a_message(model, tmp_path):
    [(_, message, _)] = problems(model, edited(model, tmp_path / "file", **{"x" * 10_000: torch.ones(2)}))
    assert len(message) < 300


def test_a_transposed_weight_is_a_wrong_shape(model, tmp_path):
    wrong = {"blocks.1.ffn.0.weight": torch.ones(24, 32)}
    [(_, message, _)] = problems(model, edited(model, tmp_path / "file", **wrong))
    assert "has the shape 24×32, and blocks.1.ffn.net.0.proj.weight needs 32×24" in message


def test_two_tensors_for_one_parameter(model, tmp_path):
    twice = {"blocks.0.attn1.to_q.weight": torch.ones(24, 24)}
    [(_, message, _)] = problems(model, edited(model, tmp_path / "file", **twice))
    assert "is for blocks.0.attn1.to_q.weight, which blocks.0." in message


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        (lambda: layouts.flux(tiny_flux.transformer(True).state_dict()), "a transformer of FLUX or HunyuanVideo"),
        (lambda: layouts.wan_vae(tiny.wan_vae().state_dict()), "a VAE of Wan or Qwen-Image"),
        (lambda: layouts.comfy_t5(tiny.umt5_encoder().state_dict()), "a T5 or UMT5 text encoder"),
        (
            lambda: {"diffusion_model.blocks.0.self_attn.q.lora_A.weight": torch.ones(2, 2)},
            "a LoRA: give it to `model.lora`",
        ),
    ],
)
def test_a_file_of_something_else_is_named(state, kind, model, tmp_path):
    save_file({key: tensor.contiguous() for key, tensor in state().items()}, tmp_path / "file")
    [(_, message, help)] = problems(model, tmp_path / "file")
    assert "file is not a checkpoint of transformer (WanTransformer3DModel)" in message
    assert help == f"it looks like {kind}"


def test_a_component_that_the_model_lacks(model):
    [(_, message, _)] = problems(model, model / "good", "transformer_2")
    assert "has no component transformer_2" in message


def gguf_file(file: Path, kind: int = 0, rows: int = 24, columns: int = 24, lost: int = 0) -> Path:
    """A GGUF file with one tensor, whose type may be any number."""
    writer = gguf.GGUFWriter(file, "wan")
    writer.add_tensor("blocks.0.self_attn.q.weight", np.zeros((rows, columns), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    content = bytearray(file.read_bytes())
    at = content.index(b"blocks.0") + len("blocks.0.self_attn.q.weight") + 4 + 16
    content[at : at + 4] = struct.pack("<I", kind)
    file.write_bytes(content[: len(content) - lost])
    return file


def test_an_unknown_gguf_type(model, tmp_path):
    [(_, message, help)] = problems(model, gguf_file(tmp_path / "file", kind=77))
    assert "the tensor blocks.0.self_attn.q.weight has the GGUF type 77, which is not known" in message
    assert "Q8_0" in help


def test_a_gguf_type_that_is_not_of_weights(model, tmp_path):
    found = problems(model, gguf_file(tmp_path / "file", kind=26))
    assert "blocks.0.self_attn.q.weight has the dtype I32, which is not one of weights" in found[0][1]


def test_a_gguf_row_that_is_no_whole_number_of_blocks(model, tmp_path):
    [(_, message, _)] = problems(model, gguf_file(tmp_path / "file", kind=12))
    assert "the rows of the tensor blocks.0.self_attn.q.weight are not whole blocks of Q4_K" in message


def test_a_truncated_gguf_file(model, tmp_path):
    [(_, message, help)] = problems(model, gguf_file(tmp_path / "file", lost=100))
    assert "is truncated" in message
    assert "the tensor blocks.0.self_attn.q.weight ends at" in message
    assert "download" in help


@pytest.mark.parametrize("seed", range(4))
def test_a_gguf_file_with_changed_bytes_is_read_or_refused(seed, tmp_path):
    rng = np.random.default_rng(seed)
    content = gguf_file(tmp_path / "whole").read_bytes()
    for number in range(200):
        changed = bytearray(content[: rng.integers(1, len(content))] if number % 2 else content)
        for place in rng.integers(4, min(len(changed), 200), 3) if len(changed) > 4 else ():
            changed[place] = rng.integers(0, 256)
        file = tmp_path / f"{number}"
        file.write_bytes(changed)
        try:
            header = checkpoint_header.read(file)
        except NodeError:
            continue
        assert all(tensor.start + tensor.size <= len(changed) for tensor in header.tensors.values())


def test_a_file_that_shrinks_while_it_is_read(model, tmp_path):
    file = shutil.copy(model / "good", tmp_path / "file.safetensors")
    run = DirectRun()
    loaded = load(run, str(model / "model"), transformer=str(file))
    content = file.read_bytes()
    file.write_bytes(content[: len(content) - 50_000])
    with pytest.raises(NodeError, match="is truncated"):
        loaded.acquire("transformer", run)


def test_a_file_on_the_hub_that_is_not_in_the_cache_is_no_problem_of_the_check(model, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for name in ("owner/name/folder/file.gguf", "owner/name/My model (fp8), v2.safetensors"):
        assert node_facts.check(load, source=str(model / "model"), transformer=name) == []


@pytest.mark.parametrize(
    "name", ["owner/name", "owner/name/file.ckpt", "../file.gguf", "owner//file.gguf", "file.gguf"]
)
def test_a_name_that_is_no_file_on_the_hub(name, model):
    [problem] = node_facts.check(load, source=str(model / "model"), transformer=name)
    assert problem.parameter == "transformer"
    assert "there is no file" in problem.message or "pickled" in problem.message


def test_a_check_reads_headers_without_torch(model):
    code = (
        "import sys; from sgd.nodes.models.nodes.model_load import _check, ModelLoadFacts;"
        f"facts = ModelLoadFacts(source={str(model / 'model')!r}, transformer={str(model / 'good')!r});"
        "assert not list(_check(facts));"
        "assert not {'torch', 'diffusers', 'safetensors', 'gguf', 'numpy'} & set(sys.modules), sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
