"""`model.compile` with the blocks of every family and torch's real compiler, inductor.

The tests run only with `-m compiles`. They take a minute and a half on two cores.
"""

from __future__ import annotations

import pytest
import torch
from helpers.changed import adapters, difference
from helpers.direct import DirectRun
from helpers.gate_pipelines import FAMILIES
from helpers.ours import Pair
from sgd.nodes.models.nodes.model_attention import attention
from sgd.nodes.models.nodes.model_compile import compile
from sgd.nodes.models.nodes.model_lora import lora

pytestmark = [pytest.mark.slow, pytest.mark.compiles, pytest.mark.timeout(600)]


@pytest.fixture(scope="module", autouse=True)
def compiler_cache(tmp_path_factory):
    """A new folder for compiled code. All tests share it, so no block is compiled twice."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
        yield


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_compiled_model_predicts_the_uncompiled_result(family, tmp_path):
    pair, run = Pair(family, tmp_path / family, layers=2), DirectRun()
    value = compile(run, pair.model)
    value.acquire("transformer", run)
    assert "compile_seconds" not in run.details
    assert 0 < difference(pair, pair.model, value, run=run) <= 1e-5, "compiled code rounds differently"
    assert run.details["compile_seconds"] > 0.1


def test_adapters_and_attention_can_be_compiled(tmp_path):
    pytest.importorskip("peft")
    pair, run = Pair("wan", tmp_path / "wan", layers=1), DirectRun()
    styled = attention(run, lora(run, pair.model, str(adapters(pair.pipeline, tmp_path)), scale=0.7), backend="sdpa")
    value, without = compile(run, styled), compile(run, pair.model)
    for one in (styled, value, without):
        one.acquire("transformer", run)
    assert difference(pair, pair.model, styled) > 1e-2
    assert 0 < difference(pair, styled, value, run=run) <= 1e-5
    assert run.details["compile_seconds"] > 0.1
    assert 0 < difference(pair, pair.model, without) <= 1e-5
    assert difference(pair, styled, value) <= 1e-5
