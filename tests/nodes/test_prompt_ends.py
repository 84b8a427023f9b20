"""Warnings about prompts that are longer than a text encoder reads, compared with the ids that the encoder gets."""

import re
from functools import partial

import pytest
import torch
from diffusers.pipelines.flux import pipeline_flux
from diffusers.pipelines.hunyuan_video import pipeline_hunyuan_video
from helpers import node_facts, tiny, tiny_flux, tiny_hunyuan_video, tiny_qwen_image, tiny_z_image
from helpers.direct import BOTH, DirectRun, model_of
from helpers.pipelines import pipeline_of
from sgd.graph.contract.errors import NodeError
from sgd.graph.contract.node import Wanted
from sgd.nodes import text

BUILDERS = {
    "wan": tiny.wan,
    "flux": tiny_flux.build,
    "hunyuan-video": tiny_hunyuan_video.hunyuan_video,
    "qwen-image": tiny_qwen_image.build,
    "z-image": tiny_z_image.build,
}
LETTERS = "".join(chr(ord("a") + n % 26) for n in range(600))  # the tokenizers of tiny models make a token of each


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    made = {}

    def model(family):
        if family not in made:
            folder = tmp_path_factory.mktemp(family)
            BUILDERS[family]().save_pretrained(folder)
            made[family] = model_of(folder)
        return made[family]

    return model


def encode(model, prompt, wanted=BOTH, **options):
    run = DirectRun()
    with torch.no_grad():
        text.encode(run, Wanted(wanted), model, prompt, **options)
    return run.warnings


def parts(warning):
    """The limit, the encoder, the number of dropped tokens and their words, from a warning."""
    found = re.search(
        r"longer than (\d+) tokens, all that (.*) reads: the last (?:(\d+) tokens|token) .*“(.*)”", warning
    )
    assert found is not None, warning
    return int(found[1]), found[2], int(found[3] or 1), found[4].replace(" ", "")


def read_by(model, component, prompt, **options):
    """The ids that a text encoder gets."""
    seen = []

    def keep(module, arguments, named):
        seen.append(named["input_ids"] if "input_ids" in named else arguments[0])

    hook = model.component(component).register_forward_pre_hook(keep, with_kwargs=True)
    try:
        encode(model, [prompt], {"positive"}, **options)
    finally:
        hook.remove()
    return seen[0][0].tolist()


@pytest.mark.parametrize(
    ("family", "tokenizer", "encoder", "limit"),
    [
        ("wan", "tokenizer", "UMT5 (text_encoder)", 512),
        ("wan", "tokenizer", "UMT5 (text_encoder)", 24),
        ("flux", "tokenizer_2", "T5 (text_encoder_2)", 512),
        ("flux", "tokenizer_2", "T5 (text_encoder_2)", 100),
        ("flux", "tokenizer", "CLIP (text_encoder)", 77),
        ("hunyuan-video", "tokenizer_2", "CLIP (text_encoder_2)", 77),
    ],
)
@pytest.mark.parametrize("over", [-1, 0, 1, 40])
def test_tokens_that_an_encoder_does_not_get_are_counted_and_quoted(models, family, tokenizer, encoder, limit, over):
    model = models(family)
    tokens = model.component(tokenizer)
    marks = len(tokens("a").input_ids) - 1
    prompt = LETTERS[: limit - marks + over]
    options = {} if limit == 77 else {"max_length": limit}
    component = encoder.split("(")[1].rstrip(")")
    seen, whole = read_by(model, component, prompt, **options), tokens(prompt).input_ids
    assert len(whole) == limit + over
    lost = len(whole) - len(seen[: len(whole)])
    assert lost == max(over, 0)
    assert seen[: limit - 1] == whole[: limit - 1]
    found = [parts(warning) for warning in encode(model, [prompt], {"positive"}, **options)]
    found = [each for each in found if each[1] == encoder]
    if lost == 0:
        assert found == []
    else:
        assert found == [(limit, encoder, lost, prompt[-lost:])]


@pytest.mark.parametrize("family", ["flux", "hunyuan-video"])
def test_words_that_clip_drops_are_those_that_diffusers_names(models, family, monkeypatch):
    module = pipeline_flux if family == "flux" else pipeline_hunyuan_video
    said = []
    monkeypatch.setattr(module.logger, "warning", lambda message, *_: said.append(message))
    prompt = "a red circle moves left over a white field, " * 3
    with torch.no_grad():
        pipeline_of(models(family)).encode_prompt([prompt], device="cpu", max_sequence_length=200)
    (warning,) = [w for w in encode(models(family), [prompt], {"positive"}, max_length=200) if "CLIP" in w]
    (theirs,) = [message for message in said if "CLIP" in message]
    removed = re.search(r"\['(.*)'\]", theirs)[1]
    assert parts(warning)[3] == removed.replace(" ", "")
    other = "T5 (text_encoder_2)" if family == "flux" else "Llama (text_encoder)"
    assert f"{other} reads all of them" in warning
    both = encode(models(family), [prompt], {"positive"}, max_length=90)
    assert len(both) == 2
    assert not any("reads all of them" in w for w in both)


def template_before(model, family):
    """Tokens of the template before the prompt, and how many of them do not count."""
    tokens = model.component("tokenizer")
    if family == "hunyuan-video":
        template = pipeline_hunyuan_video.DEFAULT_PROMPT_TEMPLATE
        return len(tokens(template["template"].partition("{}")[0]).input_ids), template["crop_start"]
    if family == "qwen-image":
        pipeline = tiny_qwen_image.build()
        before = pipeline.prompt_template_encode.partition("{}")[0]
        return len(tokens(before).input_ids), pipeline.prompt_template_encode_start_idx
    return len(tokens("<|im_start|>user\n").input_ids), 0


@pytest.mark.parametrize(
    ("family", "encoder"),
    [
        ("hunyuan-video", "Llama (text_encoder)"),
        ("qwen-image", "Qwen2.5-VL (text_encoder)"),
        ("z-image", "Qwen3 (text_encoder)"),
    ],
)
@pytest.mark.parametrize("over", [-1, 0, 1, 40])
def test_a_prompt_in_a_template_counts_without_the_template(models, family, encoder, over):
    model = models(family)
    before, free = template_before(model, family)
    limit = before - free + 60  # 60 tokens of the prompt are read
    prompt = LETTERS[: 60 + over]
    assert len(model.component("tokenizer")(prompt, add_special_tokens=False).input_ids) == 60 + over
    warnings = encode(model, [prompt], {"positive"}, max_length=limit)
    found = [each for each in map(parts, warnings) if each[1] == encoder]
    assert found == ([(limit, encoder, over, prompt[-over:])] if over > 0 else [])
    if over > 0:
        assert any("shorten the prompt, or raise `max_length`" in warning for warning in warnings)


def test_prompts_of_a_batch_are_named(models):
    long, longer = LETTERS[:30], LETTERS[:40]
    warnings = encode(models("wan"), ["a", long, "b", longer, long], {"positive"}, max_length=20)
    assert [w.partition(" longer")[0] for w in warnings] == [
        "the positive prompts 2 and 5 of 5 are",
        "the positive prompt 4 of 5 is",
    ]


def test_a_negative_prompt_is_named_if_it_is_read(models):
    assert encode(models("wan"), ["a"], {"positive"}, negative=[LETTERS[:30]], max_length=20) == []
    (warning,) = encode(models("wan"), ["a", "b"], negative=[LETTERS[:30]], max_length=20)
    assert warning.startswith("the negative prompt is longer than 20 tokens, all that UMT5 (text_encoder) reads")


def test_a_long_end_is_quoted_in_part(models):
    (warning,) = encode(models("wan"), [LETTERS], {"positive"}, max_length=20)
    quoted = parts(warning)[3]
    assert quoted.endswith("…")
    assert LETTERS[18:].startswith(quoted.rstrip("…"))
    assert len(quoted) == text.QUOTED + 1


@pytest.mark.parametrize(("family", "longest"), [("flux", 512), ("qwen-image", 1024)])
def test_a_length_that_the_pipeline_refuses_is_an_error(models, family, longest):
    check = partial(node_facts.check, text.encode, prompt=["a"])
    (problem,) = check(model={"family": family}, max_length=longest + 1)
    assert problem.parameter == "max_length"
    assert f"at most {longest} tokens" in problem.message
    assert not list(check(model={"family": family}, max_length=longest))
    with pytest.raises(NodeError, match=f"at most {longest} tokens"):
        encode(models(family), ["a"], max_length=longest + 1)
    pipeline = BUILDERS[family]()
    with pytest.raises(ValueError, match=f"cannot be greater than {longest}"):
        pipeline("a", height=32, width=32, max_sequence_length=longest + 1)


def test_the_words_are_quoted_as_they_were_written(models):
    """Also letters that the tokenizer does not know, and capitals, which CLIP's tokenizer changes."""
    (warning,) = encode(models("wan"), ["a cat ÄÖÜ 猫 Dog"], {"positive"}, max_length=8)
    assert "“ÄÖÜ 猫 Dog”" in warning
    (warning,) = encode(models("flux"), ["ab" * 36 + " Red CIRCLE"], {"positive"})
    assert "“CIRCLE”" in warning


def test_lengths_without_positions_are_an_error():
    """Llama has a table of positions; the transformer of Z-Image has one for prompts and the image after them."""
    check = partial(node_facts.check, text.encode, prompt=["a"])
    crop = pipeline_hunyuan_video.DEFAULT_PROMPT_TEMPLATE["crop_start"]
    hunyuan = {"family": "hunyuan-video", "configs": {"text_encoder": {"max_position_embeddings": 8192}}}
    assert [p.parameter for p in check(model=hunyuan, max_length=8192 - crop + 1)] == ["max_length"]
    assert not list(check(model=hunyuan, max_length=8192 - crop))
    z_image = {"family": "z-image", "configs": {"transformer": {"axes_lens": [1536, 512, 512]}}}
    assert [p.message for p in check(model=z_image, max_length=1505)] == [
        "this model takes prompts of at most 1504 tokens, not of 1505"
    ]
    assert not list(check(model=z_image, max_length=1504))


def test_a_family_without_a_limit_takes_any_length():
    assert not list(node_facts.check(text.encode, model={"family": "wan"}, prompt=["a"], max_length=4096))
