"""Prompts are encoded without diffusers' pipelines, and every number equals theirs."""

import pytest
import torch
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from helpers import tiny, tiny_flux, tiny_hunyuan_video, tiny_qwen_image, tiny_z_image
from helpers.direct import model_of
from helpers.pipelines import pipeline_of
from sgd.nodes.families import hunyuan_video, qwen_image
from sgd.nodes.families.text_encoders import cleaned

BUILDERS = {
    "wan": tiny.wan,
    "flux": tiny_flux.build,
    "hunyuan-video": tiny_hunyuan_video.hunyuan_video,
    "qwen-image": tiny_qwen_image.build,
    "z-image": tiny_z_image.build,
}
PROMPTS = ["a red circle moving right on a blue background", "a square"]


@pytest.fixture(scope="module", params=BUILDERS)
def folder(request, tmp_path_factory):
    made = tmp_path_factory.mktemp(request.param)
    BUILDERS[request.param]().save_pretrained(made)
    return made


def theirs(model, prompts, length):
    """The tensors of `encode_prompt`, by the names that the family gives them."""
    options = {"device": torch.device("cpu"), "max_sequence_length": length}
    made, pipeline = model.family.name, pipeline_of(model)
    if made == "wan":
        return {"encoder_hidden_states": pipeline.encode_prompt(list(prompts), None, False, **options)[0]}
    if made == "flux":
        embeddings, pooled, _ = pipeline.encode_prompt(list(prompts), None, **options)
        return {"embeddings": embeddings, "pooled": pooled}
    if made == "hunyuan-video":
        embeddings, pooled, mask = pipeline.encode_prompt(list(prompts), **options)
        return {"encoder_hidden_states": embeddings, "encoder_attention_mask": mask, "pooled_projections": pooled}
    if made == "qwen-image":
        embeddings, mask = pipeline.encode_prompt(list(prompts), **options)
        lengths = torch.full((len(prompts),), embeddings.shape[1]) if mask is None else mask.sum(dim=1)
    else:
        rows, _ = pipeline.encode_prompt(list(prompts), do_classifier_free_guidance=False, **options)
        embeddings = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows])
    missing = length - embeddings.shape[1]
    return {"embeddings": torch.nn.functional.pad(embeddings, (0, 0, 0, missing)), "lengths": lengths}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("prompts", [PROMPTS, PROMPTS[:1], [""]])
def test_prompts_are_encoded_as_the_pipeline_does(folder, dtype, prompts):
    model = model_of(folder, text_encoder=dtype, text_encoder_2=dtype)
    with torch.no_grad():
        ours, expected = model.family.encode_text(model, prompts, 200), theirs(model, prompts, 200)
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        assert ours[name].dtype == value.dtype, name
        if value.is_floating_point():
            assert ours[name].is_contiguous(), name  # low precision rounds by the layout
        assert torch.equal(ours[name], value), name


def test_templates_are_those_of_the_pipelines():
    made = {"template": hunyuan_video.TEMPLATE, "crop_start": hunyuan_video.TEMPLATE_LENGTH}
    assert made == DEFAULT_PROMPT_TEMPLATE
    pipeline = tiny_qwen_image.build()
    assert pipeline.prompt_template_encode == qwen_image.TEMPLATE
    assert pipeline.prompt_template_encode_start_idx == qwen_image.TEMPLATE_LENGTH
    assert pipeline.tokenizer_max_length == qwen_image.LONGEST


PRINTABLE = "".join(map(chr, range(ord(" "), 0x7F))).replace("&", "") + " `quoted'' --- x' \"y\" ... (c) 1/2"


@pytest.mark.parametrize(
    "prompt", ["", "  a\n\t b ", "&amp;amp;lt;tag", "cafÃ©", "“x” … ﬁ", "a\u00a0b", "日本 語", PRINTABLE]
)
def test_prompts_are_cleaned_as_the_pipeline_does(prompt):
    assert cleaned(prompt) == prompt_clean(prompt)
