"""text.encode: embeddings, and warnings about words that do not fit."""

from functools import partial

import pytest
import torch
from diffusers import WanPipeline
from helpers import node_facts
from helpers.direct import BOTH
from sgd.graph.contract.errors import NodeError
from sgd.graph.contract.node import Wanted
from sgd.nodes import text


def encode(run, model, prompt, wanted=BOTH, **options):
    with torch.no_grad():
        return text.encode(run, Wanted(wanted), model, prompt, **options)


@pytest.fixture
def pipeline(wan_model):
    return WanPipeline(
        tokenizer=wan_model.component("tokenizer"),
        text_encoder=wan_model.component("text_encoder"),
        vae=None,
        scheduler=None,
    )


@pytest.mark.parametrize("length", [None, 8])
def test_embeddings_equal_those_of_the_pipeline(wan_model, pipeline, run, length):
    made = encode(run, wan_model, ["a  cat &amp; dog", "rain"], negative=["dark", "blurred"], max_length=length)
    with torch.no_grad():
        positive, negative = pipeline.encode_prompt(
            ["a  cat &amp; dog", "rain"], ["dark", "blurred"], max_sequence_length=length or 512, device="cpu"
        )
    assert torch.equal(made.positive["encoder_hidden_states"], positive)
    assert torch.equal(made.negative["encoder_hidden_states"], negative)
    assert made.positive["encoder_hidden_states"].shape == (2, length or 512, 32)


def test_the_negative_prompt_is_encoded_only_if_it_is_read(wan_model, run):
    calls = []
    hook = wan_model.component("text_encoder").register_forward_hook(lambda *_: calls.append(1))
    try:
        assert encode(run, wan_model, ["a cat"], {"positive"}).negative is None
        assert len(calls) == 1
        assert encode(run, wan_model, ["a cat"], {"*"}).negative is not None
        assert len(calls) == 3
    finally:
        hook.remove()


def test_a_prompt_may_be_written_without_a_list(wan_model, run):
    one, listed = (encode(run, wan_model, prompt, max_length=8) for prompt in ("a cat", ["a cat"]))
    assert torch.equal(one.positive["encoder_hidden_states"], listed.positive["encoder_hidden_states"])


def test_words_that_are_cut_off_are_quoted(wan_model, run):
    encode(run, wan_model, ["a cat on a mat"], {"positive"}, max_length=512)
    assert run.warnings == []
    encode(run, wan_model, ["a cat on a mat", "a cat on a mat"], max_length=9)
    (warning,) = run.warnings  # once for equal prompts; the empty negative prompt fits
    assert "positive prompt is longer than 9 tokens" in warning
    # The tokenizer makes one token per character, one for the end, and one in front: "a cat o" stays.
    quoted = warning.split("“")[1].split("”")[0]
    assert "a cat on a mat".endswith(quoted)
    assert quoted == "n a mat"


def test_a_cut_negative_prompt_is_named(wan_model, run):
    encode(run, wan_model, ["cat"], negative=["dark and blurred"], max_length=6)
    assert [w.split(" prompt")[0] for w in run.warnings] == ["the negative"]


def test_wrong_numbers_of_prompts_are_an_error(wan_model, run):
    with pytest.raises(NodeError, match="3 negative prompts for 2 prompts"):
        encode(run, wan_model, ["a", "b"], negative=["x", "y", "z"])
    with pytest.raises(NodeError, match="the list of prompts is empty"):
        encode(run, wan_model, [])
    check = partial(node_facts.check, text.encode)
    assert [p.parameter for p in check(prompt=["a", "b"], negative=["x", "y", "z"])] == ["negative"]
    assert [p.parameter for p in check(prompt=[], negative=[""])] == ["prompt"]
    assert not list(check(prompt=["a", "b"], negative=["x"]))
    assert not list(check(negative=["x", "y"]))  # the prompts are not known yet


def test_conditioning_is_described_by_family_and_prompts():
    describe = partial(node_facts.describe, text.encode)
    assert describe(model={"family": "wan"}, prompt=["a", "b"]) == {"family": "wan", "prompts": 2}
    assert describe(prompt="a") == {"prompts": 1}
    assert describe() == {}
