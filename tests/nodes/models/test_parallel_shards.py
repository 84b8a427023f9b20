"""The shards of a model are read by several threads in the command: with equal results, and equal errors."""

import shutil
import threading

import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.models import model_loading_utils, modeling_utils
from helpers.direct import DirectRun
from sgd.graph.contract.errors import NodeError
from sgd.nodes.models.nodes.model_load import load


@pytest.fixture(scope="module")
def folder(wan_folder, tmp_path_factory):
    """A model folder whose transformer is in several shards."""
    made = tmp_path_factory.mktemp("sharded") / "model"
    shutil.copytree(wan_folder, made)
    module = WanTransformer3DModel.from_pretrained(made / "transformer")
    shutil.rmtree(made / "transformer")
    module.save_pretrained(made / "transformer", max_shard_size="40KB")
    assert len(list((made / "transformer").glob("*.safetensors"))) > 2
    return made


@pytest.fixture
def read(monkeypatch):
    """Loads a transformer, with one thread or several, and tells how many threads read files."""
    seen = set()
    original = model_loading_utils.load_state_dict

    def noted(*arguments, **options):
        seen.add(threading.get_ident())
        return original(*arguments, **options)

    monkeypatch.setattr(model_loading_utils, "load_state_dict", noted)

    def call(folder, parallel, dtype="float32"):
        monkeypatch.setattr(modeling_utils, "HF_ENABLE_PARALLEL_LOADING", parallel)
        seen.clear()
        run = DirectRun()
        model = load(run, str(folder), dtype=dtype)
        model.acquire("transformer", run)
        assert (threading.get_ident() not in seen) == parallel
        return model.component("transformer")

    return call


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_are_equal(folder, read, dtype):
    one, several = (read(folder, parallel, dtype) for parallel in (False, True))
    expected, found = one.state_dict(), several.state_dict()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        assert torch.equal(found[name], value), name
    assert not any(parameter.requires_grad for parameter in several.parameters())
    assert not several.training


def test_an_error_of_a_thread_is_the_same_diagnostic(folder, read, monkeypatch):
    original = model_loading_utils.load_state_dict

    def failing(file, *arguments, **options):
        if "00002-of" in str(file):
            raise OSError(5, "Input/output error")
        return original(file, *arguments, **options)

    monkeypatch.setattr(model_loading_utils, "load_state_dict", failing)
    before, said = set(threading.enumerate()), []
    for parallel in (False, True):
        with pytest.raises(NodeError) as caught:
            read(folder, parallel)
        said.append((str(caught.value), caught.value.help))
    assert "Input/output error" in said[0][0]
    assert said[0] == said[1]
    assert set(threading.enumerate()) == before  # no thread is left


def test_a_damaged_shard_is_the_same_diagnostic(folder, read, tmp_path):
    damaged = tmp_path / "model"
    shutil.copytree(folder, damaged)
    shard = sorted((damaged / "transformer").glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-100])
    said = []
    for parallel in (False, True):
        with pytest.raises(NodeError) as caught:
            read(damaged, parallel)
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert shard.name in said[0]
