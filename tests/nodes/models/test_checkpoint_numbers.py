"""Quantised checkpoints: GGUF as the gguf package and diffusers read it, fp8 with a scale as the formula says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from helpers import checkpoint_layouts as layouts
from helpers import node_facts, tiny, tiny_hunyuan_video
from helpers.direct import DirectRun
from safetensors.torch import save_file
from sgd.graph.contract.errors import NodeError
from sgd.nodes.models.checkpoints import checkpoint_tensors, stored_tensors
from sgd.nodes.models.nodes.model_load import load

WIDE = {"num_attention_heads": 2, "attention_head_dim": 128, "ffn_dim": 256, "text_dim": 256, "num_layers": 1}
"""Rows of 256 numbers, the block of most types."""


def wide_transformer() -> Any:
    from diffusers import WanTransformer3DModel

    return layouts.filled(WanTransformer3DModel(**WIDE, in_channels=16, out_channels=16, rope_max_seq_len=32).eval())


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    module = wide_transformer()
    return layouts.source(tmp_path_factory.mktemp("wide") / "model", "WanPipeline", transformer=module), module


def quantised(array: np.ndarray, kind: gguf.GGMLQuantizationType, seed: int) -> np.ndarray:
    """The array as blocks of a type; for a type that gguf only reads, random blocks with small scales."""
    try:
        return gguf.quants.quantize(array, kind)
    except NotImplementedError:
        numbers, size = gguf.GGML_QUANT_SIZES[kind]
        rng = np.random.default_rng(seed)
        blocks = rng.integers(0, 256, (*array.shape[:-1], array.shape[-1] // numbers, size), dtype=np.uint8)
        half = np.frombuffer(np.float16(0.01).tobytes(), dtype=np.uint8)
        places = {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,), "Q4_K": (0, 2), "Q5_K": (0, 2)}.get(kind.name, (0,))
        for place in places:
            blocks[..., place : place + 2] = half
        return blocks.reshape(*array.shape[:-1], -1)


def write_gguf(file: Path, state: dict[str, torch.Tensor], kind: str, architecture: str = "wan") -> dict[str, Any]:
    """Write a GGUF file as the public tools do: matrices as blocks, all else in float32. Returns what gguf reads."""
    writer, expected = gguf.GGUFWriter(file, architecture), {}
    for number, (name, tensor) in enumerate(state.items()):
        array, chosen = tensor.float().numpy(), gguf.GGMLQuantizationType.F32
        wanted = gguf.GGMLQuantizationType[kind]
        if array.ndim == 2 and array.shape[-1] % gguf.GGML_QUANT_SIZES[wanted][0] == 0:
            chosen = wanted
        if chosen.name == "F32":
            writer.add_tensor(name, array)
            expected[name] = array
        elif chosen.name == "F16":
            writer.add_tensor(name, array.astype(np.float16))
            expected[name] = array.astype(np.float16).astype(np.float32)
        else:
            blocks = quantised(array, chosen, number)
            writer.add_tensor(name, blocks, raw_dtype=chosen)
            expected[name] = gguf.quants.dequantize(blocks, chosen)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return {name: torch.from_numpy(np.array(array)) for name, array in expected.items()}


KINDS = ("F32", "F16", "BF16", *stored_tensors.TORCH_TYPES)


@pytest.mark.parametrize("kind", [*KINDS, "IQ2_XS", "IQ3_S", "IQ1_S", "TQ2_0"])
def test_a_gguf_file_has_the_numbers_that_the_gguf_package_reads(kind, wide, tmp_path):
    folder, module = wide
    original = {name: tensor.contiguous() for name, tensor in layouts.wan(module.state_dict()).items()}
    expected = write_gguf(tmp_path / "file", original, kind)
    assert node_facts.check(load, source=str(folder), transformer=str(tmp_path / "file")) == []
    run = DirectRun()
    model = load(run, str(folder), transformer=str(tmp_path / "file"))
    model.acquire("transformer", run)
    loaded = layouts.wan(model.component("transformer").state_dict())
    assert all(torch.equal(loaded[name], expected[name].reshape(loaded[name].shape)) for name in original)
    stored = run.details["checkpoints"]["transformer"]
    assert stored["format"] == "gguf"
    assert stored["dtypes"][kind] >= 10
    assert stored["fingerprint"].startswith("sha256:")


def test_weights_are_cast_once_after_float32(wide, tmp_path):
    folder, module = wide
    original = layouts.wan(module.state_dict())
    expected = write_gguf(tmp_path / "file.gguf", original, "Q5_K")
    run = DirectRun()
    model = load(run, str(folder), transformer=str(tmp_path / "file.gguf"), dtype="bfloat16")
    model.acquire("transformer", run)
    transformer = model.component("transformer")
    assert {p.dtype for p in transformer.parameters()} == {torch.bfloat16, torch.float32}
    for name, tensor in layouts.wan(transformer.state_dict()).items():
        assert torch.equal(tensor, expected[name].reshape(tensor.shape).to(tensor.dtype)), name


@pytest.mark.parametrize("chunk", [1000, 4096])
@pytest.mark.parametrize("kind", ["Q4_0", "F16"])
def test_numbers_do_not_depend_on_how_many_are_computed_at_a_time(kind, chunk, wide, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_tensors, "CHUNK", chunk)
    folder, module = wide
    expected = write_gguf(tmp_path / "file.gguf", layouts.wan(module.state_dict()), kind)
    run = DirectRun()
    model = load(run, str(folder), transformer=str(tmp_path / "file.gguf"))
    model.acquire("transformer", run)
    loaded = layouts.wan(model.component("transformer").state_dict())
    assert all(torch.equal(loaded[name], expected[name].reshape(loaded[name].shape)) for name in loaded)


def test_the_original_shape_in_the_metadata_counts(wide, tmp_path):
    """ComfyUI-GGUF writes a tensor whose rows are no whole blocks in another shape, and keeps its own in metadata."""
    folder, module = wide
    original = layouts.wan(module.state_dict())
    name = "patch_embedding.weight"
    shape, changed = original[name].shape, dict(original)
    changed[name] = original[name].reshape(-1, 256)
    writer = gguf.GGUFWriter(tmp_path / "file.gguf", "wan")
    writer.add_array(f"comfy.gguf.orig_shape.{name}", [int(size) for size in shape])
    for key, tensor in changed.items():
        blocks = gguf.quants.quantize(tensor.numpy(), gguf.GGMLQuantizationType.Q8_0) if key == name else None
        if blocks is None:
            writer.add_tensor(key, tensor.numpy())
        else:
            writer.add_tensor(key, blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    run = DirectRun()
    model = load(run, str(folder), transformer=str(tmp_path / "file.gguf"))
    model.acquire("transformer", run)
    quantised_ = gguf.quants.quantize(changed[name].numpy(), gguf.GGMLQuantizationType.Q8_0)
    expected = gguf.quants.dequantize(quantised_, gguf.GGMLQuantizationType.Q8_0)
    assert torch.equal(model.component("transformer").patch_embedding.weight, torch.from_numpy(expected).view(shape))


def test_block_types_are_those_of_the_gguf_package():
    for number, kind in stored_tensors.BLOCK_TYPES.items():
        named = gguf.GGMLQuantizationType(number)
        assert (kind.name, (kind.numbers, kind.size)) == (named.name, gguf.GGML_QUANT_SIZES[named])


def test_every_block_type_can_be_dequantised():
    from diffusers.quantizers.gguf.utils import dequantize_functions

    for name in stored_tensors.TORCH_TYPES:
        assert gguf.GGMLQuantizationType[name] in dequantize_functions
    for name in stored_tensors.NUMPY_TYPES:
        numbers, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
        made = checkpoint_tensors._dequantised(name, torch.zeros(3, size, dtype=torch.uint8))
        assert made.shape == (3, numbers)
        assert made.dtype is torch.float32


def t5_in_llama_cpp(state: Any) -> dict[str, torch.Tensor]:
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.T5ENCODER, 2)
    kept = {name: tensor for name, tensor in state.items() if name != "encoder.embed_tokens.weight"}
    return {str(names.get_name(name, try_suffixes=(".weight",))): tensor for name, tensor in kept.items()}


@pytest.mark.parametrize("kind", ["F16", "Q8_0"])
def test_a_text_encoder_of_llama_cpp_is_read(kind, tmp_path):
    module = layouts.filled(tiny.umt5_encoder())
    folder = layouts.source(tmp_path / "model", "WanPipeline", text_encoder=module)
    named = t5_in_llama_cpp(module.state_dict())
    assert "enc.blk.1.ffn_gate.weight" in named
    expected = write_gguf(tmp_path / "t5.gguf", named, kind, "t5encoder")
    run = DirectRun()
    model = load(run, str(folder), text_encoder=str(tmp_path / "t5.gguf"))
    model.acquire("text_encoder", run)
    encoder = model.component("text_encoder")
    loaded = t5_in_llama_cpp(encoder.state_dict())
    assert all(torch.equal(loaded[name], expected[name]) for name in named)
    assert encoder.encoder.embed_tokens.weight is encoder.shared.weight


def test_the_rotations_of_a_llama_are_put_in_the_order_of_transformers(tmp_path):
    """The permutation is llama.cpp's own (convert_hf_to_gguf.py, LlamaModel.permute)."""
    module = layouts.filled(tiny_hunyuan_video.llama())
    config = module.config
    folder = layouts.source(tmp_path / "model", "HunyuanVideoPipeline", text_encoder=module)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    named = {}
    for name, tensor in module.state_dict().items():
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
        if heads is not None:
            rows = tensor.shape[0]
            tensor = tensor.reshape(heads, 2, rows // heads // 2, -1).swapaxes(1, 2).reshape(tensor.shape)
        named[str(names.get_name(f"model.{name}", try_suffixes=(".weight",)))] = tensor.contiguous()
    write_gguf(tmp_path / "llama.gguf", named, "F32", "llama")
    run = DirectRun()
    model = load(run, str(folder), text_encoder=str(tmp_path / "llama.gguf"))
    model.acquire("text_encoder", run)
    loaded, expected = model.component("text_encoder").state_dict(), module.state_dict()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


def scaled(state: Any, *, ending: str = ".scale_weight", by_row: bool = False, dtype: Any = torch.float8_e4m3fn) -> Any:
    """Matrices in fp8 with a scale each, and the numbers that they stand for."""
    stored: dict[str, torch.Tensor] = {}
    meant: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        if tensor.ndim != 2 or not name.endswith(".weight"):
            stored[name] = meant[name] = tensor.contiguous()
            continue
        most = tensor.abs().amax(1, keepdim=True) if by_row else tensor.abs().max()
        scale = (most / torch.finfo(dtype).max).float()
        stored[name] = (tensor / scale).to(dtype)
        stored[name.removesuffix(".weight") + ending] = scale
        stored[name.removesuffix(".weight") + ".scale_input"] = torch.ones(())
        meant[name] = stored[name].float() * scale
    return stored, meant


def scaled_load(folder: Path, stored: Any, file: Path, metadata: Any = None) -> tuple[Any, DirectRun]:
    save_file(stored, file, metadata=metadata)
    assert node_facts.check(load, source=str(folder), transformer=str(file)) == []
    run = DirectRun()
    model = load(run, str(folder), transformer=str(file))
    model.acquire("transformer", run)
    return layouts.wan(model.component("transformer").state_dict()), run


def refused(folder: Path, stored: Any, file: Path, metadata: Any = None) -> str:
    """The message with which loading fails; `sgd check` has the same."""
    save_file(stored, file, metadata=metadata)
    [problem] = node_facts.check(load, source=str(folder), transformer=str(file))
    with pytest.raises(NodeError) as caught:
        load(DirectRun(), str(folder), transformer=str(file))
    assert problem.message == str(caught.value)
    assert problem.parameter == "transformer"
    assert problem.help
    return problem.message


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ending": ".weight_scale"},
        {"by_row": True},
        {"by_row": True, "ending": ".weight_scale"},
        {"dtype": torch.float8_e5m2},
    ],
)
@pytest.mark.parametrize("marked", [True, False])
def test_an_fp8_weight_is_multiplied_by_its_scale(options, marked, wide, tmp_path):
    folder, module = wide
    stored, meant = scaled(layouts.wan(module.state_dict()), **options)
    if marked:
        stored["scaled_fp8"] = torch.zeros(2, dtype=options.get("dtype", torch.float8_e4m3fn))
    loaded, run = scaled_load(folder, stored, tmp_path / "file.safetensors")
    assert all(torch.equal(loaded[name], meant[name]) for name in meant)
    assert run.warnings == []


def test_scales_of_fused_layers_go_with_their_rows(tmp_path):
    from helpers import tiny_flux

    module = layouts.filled(tiny_flux.transformer(True))
    folder = layouts.source(tmp_path / "model", "FluxPipeline", transformer=module)
    stored, meant = scaled(layouts.flux(module.state_dict()), by_row=True)
    save_file(
        {f"model.diffusion_model.{k}": v for k, v in stored.items()} | {"scaled_fp8": torch.ones(0)}, tmp_path / "f"
    )
    run = DirectRun()
    model = load(run, str(folder), transformer=str(tmp_path / "f"))
    model.acquire("transformer", run)
    loaded = layouts.flux(model.component("transformer").state_dict())
    assert all(torch.equal(loaded[name], meant[name]) for name in meant)


@pytest.mark.parametrize("place", ["tensor", "metadata"])
def test_a_stated_fp8_format_is_read_and_another_is_refused(place, wide, tmp_path):
    folder, module = wide
    stored, meant = scaled(layouts.wan(module.state_dict()), ending=".weight_scale")
    layers = [name.removesuffix(".weight_scale") for name in stored if name.endswith(".weight_scale")]

    def stating(form: str) -> tuple[Any, Any]:
        if place == "metadata":
            content = {"format_version": "1.0", "layers": {layer: {"format": form} for layer in layers}}
            return stored, {"_quantization_metadata": json.dumps(content)}
        text = torch.frombuffer(bytearray(json.dumps({"format": form}).encode()), dtype=torch.uint8)
        return stored | {f"{layer}.comfy_quant": text.clone() for layer in layers}, None

    loaded, _ = scaled_load(folder, stating("float8_e4m3fn")[0], tmp_path / "a", stating("float8_e4m3fn")[1])
    assert all(torch.equal(loaded[name], meant[name]) for name in meant)
    message = refused(folder, stating("mxfp8")[0], tmp_path / "b", stating("mxfp8")[1])
    assert "is quantised as mxfp8, which cannot be read" in message


def test_fp8_numbers_that_are_kept_as_bytes_are_read_where_the_format_is_stated(wide, tmp_path):
    folder, module = wide
    stored, meant = scaled(layouts.wan(module.state_dict()), ending=".weight_scale")
    layers = [name.removesuffix(".weight_scale") for name in stored if name.endswith(".weight_scale")]
    as_bytes = {k: v.view(torch.uint8) if v.dtype is torch.float8_e4m3fn else v for k, v in stored.items()}
    stated = json.dumps({"layers": {layer: {"format": "float8_e4m3fn"} for layer in layers}})
    loaded, _ = scaled_load(folder, as_bytes, tmp_path / "a", {"_quantization_metadata": stated})
    assert all(torch.equal(loaded[name], meant[name]) for name in meant)
    assert "has the dtype U8, which is not one of weights" in refused(folder, as_bytes, tmp_path / "b")


def test_plain_fp8_weights_are_the_numbers_that_they_are(wide, tmp_path):
    folder, module = wide
    original = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in layouts.wan(module.state_dict()).items()}
    loaded, _ = scaled_load(folder, original, tmp_path / "file.safetensors")
    assert all(torch.equal(loaded[name], original[name].float()) for name in original)


def _lose_scale(stored: dict[str, torch.Tensor]) -> None:
    del stored["blocks.0.ffn.0.scale_weight"]
    stored["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)


def _block_scale(stored: dict[str, torch.Tensor]) -> None:
    stored["blocks.0.ffn.0.scale_weight"] = torch.ones(2, 2)


def _integer_scale(stored: dict[str, torch.Tensor]) -> None:
    stored["blocks.0.ffn.0.scale_weight"] = torch.ones((), dtype=torch.int32)


def _integers(stored: dict[str, torch.Tensor]) -> None:
    stored["blocks.0.ffn.0.weight"] = stored["blocks.0.ffn.0.weight"].to(torch.float32).to(torch.int8)


def _bits(stored: dict[str, torch.Tensor]) -> None:
    stored["blocks.0.ffn.0.weight.absmax"] = torch.ones(4)


def _low_rank(stored: dict[str, torch.Tensor]) -> None:
    stored["blocks.0.ffn.0.proj_down"] = torch.ones(256, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_lose_scale, "blocks.0.ffn.0.weight is fp8 and has no scale beside it, and the file says"),
        (_block_scale, "blocks.0.ffn.0.weight has the scale blocks.0.ffn.0.scale_weight with 2×2 numbers"),
        (_integer_scale, "has the scale blocks.0.ffn.0.scale_weight of the dtype I32"),
        (_integers, "blocks.0.ffn.0.weight has the dtype I8, which is not one of weights"),
        (_bits, "blocks.0.ffn.0.weight.absmax is for blocks.0.ffn.net.0.proj, in a form that cannot be read"),
        (_low_rank, "blocks.0.ffn.0.proj_down is for blocks.0.ffn.net.0.proj, in a form that cannot be read"),
    ],
)
def test_a_form_that_cannot_be_read_is_refused_by_name(change, message, wide, tmp_path):
    folder, module = wide
    stored, _ = scaled(layouts.wan(module.state_dict()))
    change(stored)
    assert message in refused(folder, stored, tmp_path / "file.safetensors")


PEAK = """
import gc, sys, threading, time
from pathlib import Path
import torch
from helpers.direct import DirectRun
from sgd.nodes.models.nodes.model_load import load
def resident(): return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
run, most, done = DirectRun(), [0], []
model = load(run, sys.argv[1], transformer=sys.argv[2], dtype="bfloat16")
model.weights.parameters("transformer")  # imports what loading imports
gc.collect()
before = resident()
def watch():
    while not done:
        most[0] = max(most[0], resident())
        time.sleep(0.002)
thread = threading.Thread(target=watch)
thread.start()
model.acquire("transformer", run)
done.append(True)
thread.join()
print(most[0] - before, sum(p.nbytes for p in model.component("transformer").parameters()))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
def test_a_file_is_not_in_memory_beside_the_component(tmp_path):
    """With the file, it would be twice as much; in float32, three times."""
    from diffusers import WanTransformer3DModel

    config = {"num_attention_heads": 12, "ffn_dim": 6144, "text_dim": 1024, "num_layers": 2, "rope_max_seq_len": 32}
    module = WanTransformer3DModel(**config).eval()
    folder = layouts.source(tmp_path / "model", "WanPipeline", transformer=module)
    state = {name: tensor.half() for name, tensor in layouts.wan(module.state_dict()).items()}
    save_file(state, tmp_path / "file")
    tests = Path(layouts.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests), *sys.path])}
    command = [sys.executable, "-c", PEAK, str(folder), str(tmp_path / "file")]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    peak, size = map(int, done.stdout.split())
    assert size > 150e6
    assert peak < 1.3 * size
