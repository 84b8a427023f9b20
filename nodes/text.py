"""`text.encode`: encodes prompts into conditioning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from ..graph.contract.diagnostics import Diagnostic
from ..graph.contract.facts import NodeFacts, require
from ..graph.contract.node import Reads, Run, Wanted, node
from .models.model import SECOND_ENCODER, Model
from .value_facts import ConditioningFacts, ModelFacts
from .values import Conditioning

PARTS = ("tokenizer", "text_encoder", *SECOND_ENCODER)


@dataclass(frozen=True, kw_only=True)
class TextEncodeFacts(NodeFacts):
    """Facts of `text.encode`."""

    model: ModelFacts = ModelFacts()
    prompt: tuple[str, ...] | None = None
    negative: tuple[str, ...] | None = None
    max_length: int | None = None
    padding: str | None = None


def _describe(facts: TextEncodeFacts) -> ConditioningFacts:
    return ConditioningFacts(facts.model.family, None if facts.prompt is None else len(facts.prompt))


def _check(facts: TextEncodeFacts) -> Iterator[Diagnostic]:
    prompts, negative = len(facts.prompt or ()), len(facts.negative or ())
    if facts.prompt is not None and not prompts:
        yield Diagnostic("bad-value", "the list of prompts is empty", "prompt")
    elif prompts and negative not in (0, 1, prompts):
        given = f"{negative} negative prompts for {prompts} prompt{'s' * (prompts != 1)}"
        yield Diagnostic("bad-value", f"{given}: give one negative prompt, or one for each prompt", "negative")


def _reads(facts: TextEncodeFacts) -> Mapping[str, tuple[str, ...]]:
    """The model's text encoders, if its components are known."""
    components = facts.model.components
    return {} if components is None else {"model": tuple(part for part in PARTS if part in components)}


@node("text.encode", reads=_reads, describe=_describe, check=_check)
def encode(
    run: Run,
    wanted: Wanted,
    model: Annotated[Model, Reads(*PARTS)],
    prompt: list[str],
    *,
    negative: list[str] = [""],  # noqa: B006 - never changed
    max_length: Annotated[int | None, Field(ge=1)] = None,
    padding: Literal["cut", "keep"] = "cut",
) -> Conditioning:
    """Encode prompts with the model's text encoder.

    Prompts are cleaned, padded and truncated as in the family's diffusers pipeline. The negative prompt is encoded
    only if a node reads it. Words that do not fit into `max_length` tokens are cut; a warning quotes them.

    Args:
        model: A loaded model; its tokenizers and text encoders are used.
        prompt: One prompt, or one for each clip.
        negative: Negative prompts: one for all prompts, or one for each prompt.
        max_length: Number of tokens of each prompt. Longer prompts are cut, and shorter prompts are padded. The default
            is that of the family's pipeline (Wan, FLUX, Z-Image, Qwen-Image: 512; HunyuanVideo: 256).
        padding: `cut` removes padding that the family's pipeline masks in the transformer (HunyuanVideo). This is
            faster, because attention needs no mask, and results differ in the last bits. `keep` keeps the padding, as
            the pipeline does. Padding that the pipeline does not mask (Wan) always stays.

    Returns:
        Named tensors for the transformer, one row per prompt (Wan: [prompts, max_length, text width], in the
        dtype of the text encoder).

    Raises:
        NodeError: If there is no prompt, or the number of negative prompts is neither 1 nor the number of prompts.
    """
    prompts, against = _listed(prompt), _listed(negative)
    require(_check, TextEncodeFacts(prompt=tuple(prompts), negative=tuple(against)))
    length = max_length or model.family.max_length
    texts = {"positive": prompts}
    if "negative" in wanted:
        against = against or [""]
        # One row for each prompt, as in the pipelines. Rounding may differ with the size of the batch.
        texts["negative"] = against * len(texts["positive"]) if len(against) == 1 else against
    for name, entries in texts.items():
        for text in dict.fromkeys(entries):
            cut = model.family.cut_words(model, text, length)
            if cut:
                run.warn(f"the {name} prompt is longer than {length} tokens; these words have no effect: “{cut}”")
    encoded = {name: model.family.encode_text(model, entries, length) for name, entries in texts.items()}
    if padding == "cut":
        encoded = {name: model.family.cut_padding(tensors) for name, tensors in encoded.items()}
    return Conditioning(encoded["positive"], encoded.get("negative"), model.family.name)


def _listed(texts: list[str] | str | None) -> list[str]:
    return [texts] if isinstance(texts, str) else list(texts or [])
