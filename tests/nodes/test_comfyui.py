"""A workflow of ComfyUI is recognised in every form that the program writes, and named with its model and settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from sgd.graph.compiler.compile import check
from sgd.graph.contract.diagnostics import render
from sgd.nodes.library.comfyui.comfyui_models import SOURCES, source_of
from sgd.nodes.library.comfyui.embedded_json import LARGEST, embedded
from sgd.nodes.library.comfyui.foreign_workflow import foreign_workflow
from sgd.nodes.library.starter_workflow import starter
from sgd.nodes.models.repository.repository import BUNDLED

API = {
    "3": {
        "class_type": "KSampler",
        "inputs": {
            "seed": 42,
            "steps": 20,
            "cfg": 6.0,
            "sampler_name": "uni_pc",
            "scheduler": "simple",
            "denoise": 1,
            "model": ["48", 0],
        },
    },
    "37": {
        "class_type": "UNETLoader",
        "inputs": {"unet_name": "wan2.1_t2v_1.3B_fp16.safetensors", "weight_dtype": "default"},
    },
    "38": {
        "class_type": "CLIPLoader",
        "inputs": {"clip_name": "umt5_xxl_fp8_e4m3fn_scaled.safetensors", "type": "wan"},
    },
    "39": {"class_type": "VAELoader", "inputs": {"vae_name": "wan_2.1_vae.safetensors"}},
    "40": {"class_type": "EmptyHunyuanLatentVideo", "inputs": {"width": 832, "height": 480, "length": 33}},
    "48": {"class_type": "ModelSamplingSD3", "inputs": {"shift": 8.0, "model": ["50", 0]}},
    "50": {
        "class_type": "LoraLoaderModelOnly",
        "inputs": {"lora_name": "wan/rain.safetensors", "strength_model": 0.7, "model": ["37", 0]},
    },
}
"""In the shape of ComfyUI's template for Wan 2.1."""

EDITOR = {
    "last_node_id": 12,
    "last_link_id": 3,
    "nodes": [
        {"id": 1, "type": "UnetLoaderGGUF", "pos": [0, 0], "mode": 0, "widgets_values": ["flux1-dev-Q4_K_S.gguf"]},
        {"id": 2, "type": "KSampler", "pos": [0, 0], "widgets_values": [7, "fixed", 28, 1, "euler", "simple", 1]},
        {"id": 3, "type": "LoraLoader", "pos": [0, 0], "widgets_values": ["style.safetensors", 0.8, 1]},
        {"id": 4, "type": "LoraLoader", "pos": [0, 0], "mode": 4, "widgets_values": ["off.safetensors", 1, 1]},
        {"id": 5, "type": "FluxGuidance", "pos": [0, 0], "widgets_values": [3.5]},
    ],
    "links": [[1, 1, 0, 2, 0, "MODEL"]],
    "definitions": {"subgraphs": [{"nodes": [{"id": 9, "type": "RandomNoise", "pos": [0, 0], "widgets_values": [5]}]}]},
    "version": 0.4,
}


def found(path: Path) -> str:
    problem = foreign_workflow(path)
    assert problem is not None
    assert problem.code == "foreign-file"
    return f"{problem.message}\n{problem.help}"


def says_wan(text: str) -> None:
    assert "is a ComfyUI workflow" in text or "carries a ComfyUI workflow" in text
    assert "model: wan2.1_t2v_1.3B_fp16.safetensors" in text
    assert "LoRA: wan/rain.safetensors, strength 0.7" in text
    assert "KSampler 3: steps 20, cfg 6.0, sampler_name uni_pc, scheduler simple, denoise 1, seed 42" in text
    assert "ModelSamplingSD3 48: shift 8.0" in text
    assert "`sgd init Wan-AI/Wan2.1-T2V-1.3B-Diffusers`" in text
    assert "umt5" not in text


def test_the_api_format(tmp_path: Path) -> None:
    (tmp_path / "w.json").write_text(json.dumps(API))
    says_wan(found(tmp_path / "w.json"))


def test_the_request_that_holds_a_prompt(tmp_path: Path) -> None:
    (tmp_path / "w.json").write_text(json.dumps({"client_id": "x", "prompt": API}))
    says_wan(found(tmp_path / "w.json"))


def test_the_format_of_the_editor(tmp_path: Path) -> None:
    (tmp_path / "w.json").write_text(json.dumps(EDITOR))
    text = found(tmp_path / "w.json")
    assert "format of its editor" in text
    assert "model: flux1-dev-Q4_K_S.gguf" in text
    assert "LoRA: style.safetensors, strength 0.8" in text
    assert "off.safetensors" not in text
    assert "KSampler 2: steps 28, cfg 1, sampler_name euler, scheduler simple, denoise 1, seed 7" in text
    assert "FluxGuidance 5: guidance 3.5" in text
    assert "RandomNoise 9: noise_seed 5" in text
    assert "`sgd init black-forest-labs/FLUX.1-dev`" in text


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("method", ["add_text", "add_itxt"])
def test_a_picture_that_carries_one(tmp_path: Path, method: str, packed: bool) -> None:
    info = PngInfo()
    getattr(info, method)("prompt", json.dumps(API), zip=packed)
    getattr(info, method)("workflow", json.dumps(EDITOR), zip=packed)
    Image.new("RGB", (8, 8)).save(tmp_path / "p.png", pnginfo=info)
    text = found(tmp_path / "p.png")
    assert "p.png is a picture that carries a ComfyUI workflow (API format)" in text
    says_wan(text)


def test_a_webp_picture_that_carries_one(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 8))
    exif = image.getexif()
    exif[0x0110] = f"prompt:{json.dumps(API)}"
    image.save(tmp_path / "p.webp", exif=exif)
    says_wan(found(tmp_path / "p.webp"))


def clip(path: Path, tags: dict[str, str]) -> None:
    with av.open(str(path), "w", options={"movflags": "use_metadata_tags"}) as container:
        container.metadata.update(tags)
        stream = container.add_stream("libx264", rate=8)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for _ in range(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")))
        container.mux(stream.encode(None))


@pytest.mark.parametrize("name", ["c.mp4", "c.mkv"])
@pytest.mark.parametrize(
    "tags",
    [
        {"prompt": json.dumps(API), "workflow": json.dumps(EDITOR)},
        {"comment": json.dumps({"prompt": json.dumps(API), "workflow": EDITOR})},
    ],
    ids=["tags", "comment"],
)
def test_a_clip_that_carries_one(tmp_path: Path, name: str, tags: dict[str, str]) -> None:
    clip(tmp_path / name, tags)
    text = found(tmp_path / name)
    assert f"{name} is a clip that carries" in text
    says_wan(text)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("wan2.1_t2v_1.3B_fp16.safetensors", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"),
        ("WanVideo\\Wan2_1-T2V-14B_fp8_e4m3fn.safetensors", "Wan-AI/Wan2.1-T2V-14B-Diffusers"),
        ("wan2.1_i2v_480p_14B_fp16.safetensors", "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers"),
        ("Wan2_1-I2V-14B-720P_fp8_e4m3fn.safetensors", "Wan-AI/Wan2.1-I2V-14B-720P-Diffusers"),
        ("wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors", "Wan-AI/Wan2.2-T2V-A14B-Diffusers"),
        ("Wan2.2-I2V-A14B-LowNoise-Q4_K_M.gguf", "Wan-AI/Wan2.2-I2V-A14B-Diffusers"),
        ("wan2.2_ti2v_5B_fp16.safetensors", "Wan-AI/Wan2.2-TI2V-5B-Diffusers"),
        ("hunyuan_video_t2v_720p_bf16.safetensors", "hunyuanvideo-community/HunyuanVideo"),
        ("flux1-dev.safetensors", "black-forest-labs/FLUX.1-dev"),
        ("flux1-dev-fp8.safetensors", "black-forest-labs/FLUX.1-dev"),
        ("flux1-schnell.safetensors", "black-forest-labs/FLUX.1-schnell"),
        ("qwen_image_fp8_e4m3fn.safetensors", "Qwen/Qwen-Image"),
        ("z_image_turbo_bf16.safetensors", "Tongyi-MAI/Z-Image-Turbo"),
        ("flux1-kontext-dev.safetensors", None),
        ("flux2_dev_fp8mixed.safetensors", None),
        ("qwen_image_edit_2509_fp8_e4m3fn.safetensors", None),
        ("hunyuan_video_image_to_video_720p_bf16.safetensors", None),
        ("hunyuan_video_v2_replace_i2v_720p_bf16.safetensors", None),
        ("hunyuanvideo1.5_720p_t2v_fp16.safetensors", None),
        ("wan2.1_vace_14B_fp16.safetensors", None),
        ("wan2.2_animate_14B_bf16.safetensors", None),
        ("v1-5-pruned-emaonly.safetensors", None),
        ("sd_xl_base_1.0.safetensors", None),
    ],
)
def test_models_by_the_names_of_their_files(file: str, source: str | None) -> None:
    assert source_of(file) == source


def test_init_writes_a_workflow_for_each_bundled_repository() -> None:
    bundled = [source for _, _, source in SOURCES if (BUNDLED / source / "model_index.json").is_file()]
    assert len(bundled) >= 9
    for source in bundled:
        name, text = starter(source)
        assert name
        assert source in text


def test_a_model_that_sgd_does_not_have(tmp_path: Path) -> None:
    other = {"1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd_xl_base_1.0.safetensors"}}}
    (tmp_path / "w.json").write_text(json.dumps(other))
    text = found(tmp_path / "w.json")
    assert "model: sd_xl_base_1.0.safetensors" in text
    assert "sgd has no workflow for this model" in text
    assert "sgd init" not in text


def test_files_of_other_kinds_are_left_alone(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "p.png")
    clip(tmp_path / "c.mp4", {"comment": "holiday"})
    (tmp_path / "w.json").write_text(json.dumps({"nodes": {"a": {"uses": "image.load"}}}))
    (tmp_path / "w.yaml").write_text("nodes: {}")
    for path in (*tmp_path.iterdir(), tmp_path, tmp_path / "none", Path("a\0b")):
        assert foreign_workflow(path) is None


def test_a_workflow_of_sgd_in_json_is_a_workflow(tmp_path: Path) -> None:
    content = {"sgd": 1, "nodes": {"g": {"uses": "cache.none"}}, "outputs": {"g": "$g"}, "inputs": {}}
    (tmp_path / "w.json").write_text(json.dumps(content))
    assert check(tmp_path / "w.json").diagnostics == []
    (tmp_path / "w.json").write_text(json.dumps({**content, "4": {"class_type": "KSampler", "inputs": {}}}))
    assert [d.code for d in check(tmp_path / "w.json").errors] == ["unknown-key"]


words = st.sampled_from(
    [
        *("class_type", "inputs", "nodes", "type", "id", "widgets_values", "KSampler", "UNETLoader", "unet_name"),
        *("x.safetensors", "definitions", "subgraphs", "prompt", "workflow", "lora", "steps", "mode", "pos"),
        *("\x1b[31m", "\u202e", "a\nb"),
    ]
)
values = st.recursive(
    words | st.integers() | st.floats() | st.none() | st.booleans() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=5),
    max_leaves=25,
)


@settings(max_examples=60, derandomize=True, deadline=None, database=None)
@given(values, values, values)
def test_any_content(tmp_path_factory: pytest.TempPathFactory, one: Any, two: Any, three: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    editor = {"nodes": [{"id": one, "type": "KSampler", "pos": 0, "widgets_values": two}, three]}
    for content in ({"1": {"class_type": "LoraLoader", "inputs": one}, "2": two}, editor, {"prompt": one, "4": three}):
        path.write_text(json.dumps(content))
        result = check(path)
        assert result.errors
        text = render(result.diagnostics, result.sources)
        assert not any(c in text for c in "\x1b\u202e\x07")
        assert json.dumps([d.json() for d in result.diagnostics])


@pytest.mark.parametrize(
    "text",
    [
        '{"1": {"class_type": "KSampler", "inputs": {"seed": ' + "9" * 4000 + ', "cfg": NaN, "steps": 1e999}}}',
        '{"1": {"class_type": "KSampler", "inputs": {"seed": 3}}, "2": ' + "[" * 5000 + "]" * 5000 + "}",
        '{"1": {"class_type": "UNETLoader", "inputs": {"unet_name": "\\ud800\\u0000.safetensors"}}}',
        '{"1": {"class_type": "UNETLoader", "inputs": {"unet_name": "' + "x" * (10 << 20) + '.safetensors"}}}',
        '{"1": {"class_type": "\\u001b[31mKSampler", "inputs": {"steps": 3}}}',
        '\ufeff{"1": {"class_type": "KSampler", "inputs": {"steps": 3}}}',
        json.dumps({str(n): {"class_type": "KSampler", "inputs": {"steps": n}} for n in range(20_000)}),
    ],
    ids=["numbers", "deep", "surrogate", "long", "escape", "mark", "many"],
)
def test_hostile_content_is_answered_in_words(tmp_path: Path, text: str) -> None:
    path = tmp_path / "w.json"
    path.write_text(text, encoding="utf-8")
    result = check(path)
    assert len(result.errors) >= 1
    shown = render(result.diagnostics, result.sources)
    assert shown.encode("utf-8")
    assert len(shown) < 10_000
    assert not any(ord(c) < 32 and c != "\n" for c in shown)


def test_packed_texts_are_not_unpacked_without_end(tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("prompt", '{"a": "' + "x" * (LARGEST + 1000) + '"}', zip=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "p.png", pnginfo=info)
    assert (tmp_path / "p.png").stat().st_size < 1 << 20
    assert list(embedded(tmp_path / "p.png")) == []


def test_cut_pictures_and_clips(tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("prompt", json.dumps(API))
    Image.new("RGB", (8, 8)).save(tmp_path / "p.png", pnginfo=info)
    clip(tmp_path / "c.mp4", {"prompt": json.dumps(API)})
    for name in ("p.png", "c.mp4"):
        data = (tmp_path / name).read_bytes()
        for end in (*range(0, len(data), 97), len(data)):
            (tmp_path / f"cut-{name}").write_bytes(data[:end])
            found = foreign_workflow(tmp_path / f"cut-{name}")
            assert found is None or found.code == "foreign-file"
        assert found is not None, "the whole file"


@pytest.mark.parametrize("command", ["exec", "check", "init"])
def test_each_command_says_it_once(tmp_path: Path, command: str) -> None:
    (tmp_path / "w.json").write_text(json.dumps(API))
    arguments = [sys.executable, "-m", "sgd.graph.cli.main", command, "w.json"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("error[") == 1
    says_wan(done.stderr)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["w.json"]
