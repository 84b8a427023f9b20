"""Every fault of a model folder is a `NodeError` with a message and help."""

import json
import re
import shutil

import pytest
from helpers.direct import DirectRun
from sgd.graph.contract.errors import NodeError
from sgd.nodes.models.nodes.model_load import load

VAE = "vae/diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(wan_folder, tmp_path):
    return shutil.copytree(wan_folder, tmp_path / "model")


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def failure(folder, part=None, **options):
    run = DirectRun()
    run.options = options
    try:
        load(run, str(folder)).acquire(part, run)
    except NodeError as error:
        return error
    raise AssertionError("no error")


def test_a_missing_folder(tmp_path):
    error = failure(tmp_path / "nowhere")
    assert str(error) == f"there is no folder {tmp_path / 'nowhere'}"
    assert "model_index.json" in error.help


def test_a_file_instead_of_a_folder(folder):
    error = failure(folder / VAE)
    assert "is a file; a model is a folder" in str(error)


def test_a_folder_without_a_model_index(tmp_path):
    error = failure(tmp_path)
    assert str(error) == f"{tmp_path} is not a model in diffusers' layout: it has no model_index.json"


def test_a_component_instead_of_the_model(folder):
    error = failure(folder / "vae")
    assert "its parent folder may be the model" in error.help


@pytest.mark.parametrize("content", ["{", "[]", "\udcff".encode("utf-8", "surrogateescape"), '{"vae": []}'])
def test_broken_index(folder, content):
    path = folder / "model_index.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert "model_index.json" in str(failure(folder))


def test_unknown_pipeline(folder):
    edit(folder / "model_index.json", _class_name="AudioPipeline")
    error = failure(folder)
    assert "AudioPipeline, which belongs to no known model family" in str(error)
    assert "WanPipeline" in error.help


def test_an_unknown_component(folder):
    error = failure(folder, "transformer_2")
    assert "has no component transformer_2" in str(error)
    assert error.help == "it lists scheduler, text_encoder, tokenizer, transformer, vae"


def test_component_folder_missing(folder):
    shutil.rmtree(folder / "vae")
    assert "has no folder vae" in str(failure(folder, "vae"))


def test_config_missing(folder):
    (folder / "vae/config.json").unlink()
    assert "vae has no config file" in str(failure(folder, "vae"))


def test_config_broken(folder):
    (folder / "transformer/config.json").write_text("{")
    error = failure(folder, "transformer")
    assert str(error) == f"{folder / 'transformer/config.json'}:1:1: `{{` is not closed"
    assert error.__cause__ is not None


def test_config_of_other_weights(folder):
    edit(folder / "transformer/config.json", num_layers=3)
    error = failure(folder, "transformer")
    assert re.search(r"lacks parameters that .*transformer/config.json asks for: blocks\.2\.", str(error))


def test_config_of_other_shapes(folder):
    edit(folder / "transformer/config.json", ffn_dim=64)
    assert "transformer" in str(failure(folder, "transformer"))


def test_unused_weights_are_a_warning(folder):
    edit(folder / "transformer/config.json", num_layers=1)
    run = DirectRun()
    load(run, str(folder)).acquire("transformer", run)
    (warning,) = run.warnings
    assert re.fullmatch(
        r"\d+ tensors in .*transformer/diffusion_pytorch_model.safetensors are not used: blocks.*", warning
    )


def test_truncated_weights(folder):
    path = folder / VAE
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    error = failure(folder, "vae")
    assert str(error) == f"{path} is truncated: {len(whole) - 100} bytes of {len(whole)}"
    assert "download the model again" in error.help


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 100, (8).to_bytes(8, "little") + b"not json"])
def test_damaged_weights(folder, content):
    (folder / VAE).write_bytes(content)
    assert VAE in str(failure(folder, "vae"))


def test_only_pickled_weights(folder):
    (folder / VAE).rename(folder / "vae/diffusion_pytorch_model.bin")
    error = failure(folder, "vae")
    assert "vae has its weights only as pickled files (diffusion_pytorch_model.bin)" in str(error)
    assert "safe_serialization" in error.help


def test_no_weights(folder):
    (folder / VAE).unlink()
    assert "vae has no weight files (safetensors)" in str(failure(folder, "vae"))


def sharded(folder):
    from diffusers import WanTransformer3DModel

    module = WanTransformer3DModel.from_pretrained(folder / "transformer")
    shutil.rmtree(folder / "transformer")
    module.save_pretrained(folder / "transformer", max_shard_size="40KB")
    return folder / "transformer"


def test_missing_shard(folder):
    part = sharded(folder)
    shards = sorted(part.glob("*.safetensors"))
    shards[1].unlink()
    error = failure(folder, "transformer")
    assert str(error) == f"{part} lacks 1 of {len(shards)} shards: {shards[1].name}"


def test_truncated_shard(folder):
    shard = sorted(sharded(folder).glob("*.safetensors"))[-1]
    shard.write_bytes(shard.read_bytes()[:-1])
    assert f"{shard} is truncated" in str(failure(folder, "transformer"))


def test_shards_outside_the_folder(folder):
    index = sharded(folder) / "diffusion_pytorch_model.safetensors.index.json"
    edit(index, weight_map={"a": "../../secret.safetensors"})
    assert "names shards that are no safetensors files of its folder" in str(failure(folder, "transformer"))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (["diffusers", "AutoencoderKLNothing"], "needs the class AutoencoderKLNothing, and diffusers"),
        (["transformers", "NoModel"], "needs the class NoModel, and transformers"),
        (["os", "system"], "only classes of diffusers and transformers are loaded"),
        (["diffusers.utils", "logging"], "only classes of diffusers and transformers are loaded"),
        (["diffusers", "utils"], "which is not a component class"),
        (["transformers", "pipeline"], "which is not a component class"),
    ],
)
def test_classes_that_are_not_components(folder, entry, message):
    edit(folder / "model_index.json", vae=entry)
    assert message in str(failure(folder, "vae"))


CODE = """
from diffusers import AutoencoderKLWan
open({mark!r}, "w").close()
class Mine(AutoencoderKLWan):
    pass
"""


def test_code_of_the_repository_is_refused_unless_trusted(folder, tmp_path):
    mark = tmp_path / "ran"
    (folder / "vae/mine.py").write_text(CODE.format(mark=str(mark)))
    edit(folder / "model_index.json", vae=["mine", "Mine"])
    error = failure(folder, "vae")
    assert "needs Python code of the repository (vae/mine.py)" in str(error)
    assert "--trust-remote-code" in error.help
    assert not mark.exists()

    run = DirectRun()
    run.options = {"trust_remote_code": True}
    model = load(run, str(folder))
    model.acquire("vae", run)
    assert type(model.component("vae")).__name__ == "Mine"
    assert mark.exists()


def test_broken_tokenizer(folder):
    for file in (folder / "tokenizer").glob("*.json"):
        file.write_text("{")
    error = failure(folder, "tokenizer")
    assert re.search(r"tokenizer/.*json:1:1: `{` is not closed", str(error))


def test_an_offline_run_without_cached_files():
    error = failure("owner/not-in-the-cache")
    assert str(error) == (
        "owner/not-in-the-cache is not completely in the local cache, and HF_HUB_OFFLINE forbids downloads"
    )


@pytest.mark.parametrize("source", ["nothing", "a/b/c", "", "owner/", "-x/y z"])
def test_a_source_that_is_neither_folder_nor_repository(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert source in str(failure(source))
