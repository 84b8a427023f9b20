"""`model.load`, and loading and release of components, with real files."""

import gc
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import pytest
import torch
from helpers import node_facts
from helpers.direct import DirectRun
from sgd.graph.contract.errors import NodeError
from sgd.nodes.models.memory import host_memory
from sgd.nodes.models.nodes.model_load import load

MODULES = ("transformer", "text_encoder", "vae")

TESTS = str(Path(node_facts.__file__).parents[1])


@pytest.fixture(scope="module")
def pipeline(wan_folder):
    from diffusers import WanPipeline

    return WanPipeline.from_pretrained(wan_folder, dtype=torch.float32)


@pytest.fixture
def model(wan_folder, run):
    return load(run, str(wan_folder))


def equal_tensors(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


@pytest.mark.parametrize("part", MODULES)
def test_modules_equal_from_pretrained(model, run, pipeline, part):
    model.acquire(part, run)
    module = model.component(part)
    assert type(module) is type(getattr(pipeline, part))
    assert equal_tensors(module.state_dict(), getattr(pipeline, part).state_dict())
    buffers = dict(getattr(pipeline, part).named_buffers())
    assert equal_tensors(dict(module.named_buffers()), buffers)
    assert not module.training
    assert not any(p.requires_grad for p in module.parameters())
    assert all(p.data_ptr() % 64 == 0 for p in module.parameters())


def test_tokenizer_and_scheduler_equal_the_pipeline(model, run, pipeline):
    for part in ("tokenizer", "scheduler"):
        model.acquire(part, run)
    text = "a red circle moves left"
    assert model.component("tokenizer")(text).input_ids == pipeline.tokenizer(text).input_ids
    assert dict(model.component("scheduler").config) == dict(pipeline.scheduler.config)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_dtypes_equal_from_pretrained(wan_folder, run, dtype):
    from diffusers import WanTransformer3DModel
    from transformers import UMT5EncoderModel

    model = load(run, str(wan_folder), dtype=dtype)
    for part, cls in (("transformer", WanTransformer3DModel), ("text_encoder", UMT5EncoderModel)):
        model.acquire(part, run)
        expected = cls.from_pretrained(wan_folder / part, dtype=getattr(torch, dtype))
        assert equal_tensors(model.component(part).state_dict(), expected.state_dict())
    model.acquire("vae", run)
    assert model.dtype("vae") is torch.float32
    assert {p.dtype for p in model.component("vae").parameters()} == {torch.float32}


@pytest.mark.parametrize(("chosen", "vae"), [("float16", "float16"), ("auto", "float32")])
def test_vae_dtype_sets_the_dtype_of_the_vae(wan_folder, run, chosen, vae):
    model = load(run, str(wan_folder), dtype="bfloat16", vae_dtype=chosen)
    assert str(model.dtype("vae")) == f"torch.{vae}"
    assert model.dtype("transformer") is torch.bfloat16


def test_lists_its_components(model):
    assert set(model.parts()) == {"transformer", "text_encoder", "tokenizer", "vae", "scheduler"}


def test_reads_configs_only_until_acquired(wan_folder, run, model):
    assert model.config("transformer")["num_layers"] == 2
    assert model.config("model_index")["_class_name"] == "WanPipeline"
    with pytest.raises(NodeError, match="not in memory"):
        model.component("transformer")
    with pytest.raises(NodeError, match="no component transformer_2"):
        model.component("transformer_2")


@pytest.mark.parametrize("part", MODULES)
def test_a_released_component_is_freed(model, run, part):
    model.acquire(part, run)
    module = weakref.ref(model.component(part))
    storage = weakref.ref(next(model.component(part).parameters()))
    model.release(part)
    assert module() is None
    assert storage() is None
    with pytest.raises(NodeError, match="not in memory"):
        model.component(part)


def test_holders_are_counted(model, run):
    model.acquire("vae", run)
    module = model.component("vae")
    model.acquire("vae", run)
    assert model.component("vae") is module
    model.release("vae")
    assert model.component("vae") is module
    model.release("vae")
    with pytest.raises(NodeError, match="not in memory"):
        model.component("vae")
    with pytest.raises(NodeError, match="not acquired"):
        model.release("vae")


def test_prefetch_runs_in_other_threads(model, run):
    threads = [threading.Thread(target=model.prefetch, args=(part, run)) for part in (*MODULES, "tokenizer")]
    for thread in threads:
        thread.start()
    for part in MODULES:
        model.acquire(part, run)
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()
    model.prefetch("vae", run)
    model.prefetch("no_such_part", run)


def test_prefetch_leaves_errors_to_acquire(wan_folder, tmp_path, run):
    import shutil

    shutil.copytree(wan_folder, tmp_path / "model")
    (tmp_path / "model/vae/diffusion_pytorch_model.safetensors").unlink()
    model = load(run, str(tmp_path / "model"))
    model.prefetch("vae", run)
    with pytest.raises(NodeError, match="no weight files"):
        model.acquire("vae", run)


def test_reports_the_loaded_weights(wan_folder, run, model, pipeline):
    model.acquire("transformer", run)
    count = sum(p.numel() for p in pipeline.transformer.parameters())
    detail = run.details["transformer"]
    assert detail["class"] == "WanTransformer3DModel"
    assert (detail["parameters"], detail["bytes"], detail["dtype"]) == (count, 4 * count, "float32")
    assert model.weights.parameters("transformer") == (count, 4 * count)
    assert model.weights.parameters("tokenizer") == (0, 0)
    facts = model.facts()
    assert facts["family"] == "wan"
    assert facts["source"] == str(wan_folder)
    assert facts["parameters"]["transformer"] == count


def test_nothing_is_printed(wan_folder, model, run, capfd):
    for part in (*MODULES, "tokenizer", "scheduler"):
        model.acquire(part, run)
        model.release(part)
    gc.collect()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_sharded_and_variant_files(pipeline, wan_folder, tmp_path, run, variant):
    folder = tmp_path / "sharded"
    pipeline.save_pretrained(folder, max_shard_size="40KB", variant=variant)
    shards = list((folder / "transformer").glob("*.safetensors"))
    assert len(shards) > 1
    assert all(("fp16" in f.name) == (variant == "fp16") for f in shards)
    model = load(run, str(folder), variant=variant)
    for part in MODULES:
        model.prefetch(part, run)
        model.acquire(part, run)
        assert equal_tensors(model.component(part).state_dict(), getattr(pipeline, part).state_dict())
    assert run.warnings == []


def test_a_missing_variant_uses_the_ordinary_weights(wan_folder, run):
    model = load(run, str(wan_folder), variant="fp16")
    model.acquire("vae", run)
    assert run.warnings == [f"{wan_folder}: vae has no fp16 weights; its ordinary weights are used"]


def test_an_error_names_the_only_variant(pipeline, tmp_path, run):
    pipeline.vae.save_pretrained(tmp_path / "vae", variant="fp16")
    (tmp_path / "model_index.json").write_text(
        '{"_class_name": "WanPipeline", "vae": ["diffusers", "AutoencoderKLWan"]}'
    )
    with pytest.raises(NodeError, match="vae has no weights without a variant") as error:
        load(run, str(tmp_path)).acquire("vae", run)
    assert error.value.help == "set variant: fp16"


def test_describe_and_check_read_a_folder(wan_folder):
    known = node_facts.describe(load, source=str(wan_folder))
    assert known["family"] == "wan"
    assert known["source"] == str(wan_folder)
    assert known["components"]["vae"] == "AutoencoderKLWan"
    assert known["configs"]["transformer"]["num_layers"] == 2
    assert known["configs"]["model_index"]["_class_name"] == "WanPipeline"
    assert list(node_facts.check(load, source=str(wan_folder))) == []


def test_describe_reads_bundled_configurations():
    known = node_facts.describe(load, source="Wan-AI/Wan2.1-T2V-14B-Diffusers", revision="main")
    assert known["family"] == "wan"
    assert known["configs"]["transformer"]["num_layers"] == 40


def test_check_is_silent_on_unknown_values():
    assert node_facts.describe(load, source="owner/not-in-the-cache") == {}
    assert list(node_facts.check(load, source="owner/not-in-the-cache")) == []
    assert node_facts.check(load) == []


@pytest.mark.parametrize("source", ["./no/such/folder", "/no/such/folder", "nothing", "three/words/deep", "../up"])
def test_check_reports_a_local_source_that_is_not_there(source):
    assert node_facts.describe(load, source=source) == {}
    (problem,) = node_facts.check(load, source=source)
    assert (problem.code, problem.parameter) == ("bad-value", "source")
    assert problem.message == f"there is no folder {source}"


def test_check_reports_a_folder_without_a_model(tmp_path):
    (problem,) = node_facts.check(load, source=str(tmp_path))
    assert (problem.code, problem.parameter) == ("bad-value", "source")
    assert "no model_index.json" in problem.message
    assert node_facts.describe(load, source=str(tmp_path)) == {}


def test_check_reports_an_unknown_pipeline(tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "AudioPipeline"}')
    (problem,) = node_facts.check(load, source=str(tmp_path))
    assert "AudioPipeline, which belongs to no known model family" in problem.message
    assert "wan (WanPipeline" in problem.help


def test_describe_and_check_do_not_import_torch(wan_folder):
    code = (
        f"import sys; sys.path.insert(0, {TESTS!r}); from helpers import node_facts;"
        "from sgd.nodes.models.nodes.model_load import load; import sgd.nodes.support.cost_meter;"
        f"assert node_facts.describe(load, source={str(wan_folder)!r})['family'] == 'wan';"
        "assert node_facts.check(load, source='owner/name') == [];"
        "heavy = {'torch', 'diffusers', 'transformers', 'numpy', 'accelerate', 'safetensors'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_run_without_a_folder_loads_a_model(wan_folder):
    assert load(DirectRun(), str(wan_folder)).device == "cpu"


def test_the_last_release_frees_the_memory_before_it_returns_it_to_the_system(model, run, monkeypatch):
    left = []
    for part in MODULES:
        model.acquire(part, run)
        kept = weakref.ref(model.component(part))
        monkeypatch.setattr(host_memory, "trim", lambda kept=kept: left.append(kept()))
        monkeypatch.setattr(gc, "collect", lambda: pytest.fail("the component was still referred to"))
        model.release(part)
    assert left == [None] * len(MODULES)
