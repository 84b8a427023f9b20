"""`text.encode`: encodes prompts into conditioning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from ..graph.contract.diagnostics import Diagnostic
from ..graph.contract.facts import NodeFacts, require
from ..graph.contract.node import Reads, Run, Wanted, node
from .families import Configs
from .families.prompt_ends import CutEnd
from .models.model import SECOND_ENCODER, Model
from .value_facts import ConditioningFacts, ModelFacts
from .values import Conditioning

QUOTED = 200  # characters of a cut prompt in a warning
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
        yield Diagnostic("bad-value", f"{given}: give one, or one for each prompt", "negative")
    family, length = facts.model.known_family, facts.max_length
    longest = None if family is None else family.longest_prompt(facts.model.configs)
    if length is not None and longest is not None and length > longest:
        message = f"this model takes prompts of at most {longest} tokens, not of {length}"
        yield Diagnostic("bad-value", message, "max_length")


def _reads(facts: TextEncodeFacts) -> Mapping[str, tuple[str, ...]]:
    """The model's text encoders, if its components are known."""
    components = facts.model.components
    return {} if components is None else {"model": tuple(part for part in PARTS if part in components)}


@node("text.encode", reads=_reads, describe=_describe, check=_check, processes="once")
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
    only if a node reads it. Each encoder reads a limited number of tokens: `max_length`, and CLIP 77 (FLUX,
    HunyuanVideo). For a longer prompt, a warning names the encoder, and the number and the words of the dropped tokens.

    Args:
        model: A loaded model; its tokenizers and text encoders are used.
        prompt: One prompt, or one for each clip.
        negative: Text to steer away from: one for all prompts, or one for each.
        max_length: Number of tokens of each prompt: longer prompts are cut, shorter ones padded. Without it, the
            number of the family's pipeline (Wan, FLUX, Z-Image, Qwen-Image: 512; HunyuanVideo: 256). The pipelines
            of FLUX and Qwen-Image take at most 512 and 1024.
        padding: `cut` removes padding that the family's pipeline masks in the transformer (HunyuanVideo). It is
            faster, because attention needs no mask; results differ in the last bits. `keep` keeps the padding, as
            the pipeline does. Padding that is not masked (Wan) always stays.

    Returns:
        Named tensors for the transformer, one row per prompt (Wan: [prompts, max_length, text width], in the
        dtype of the text encoder).

    Raises:
        NodeError: If there is no prompt, the number of negative prompts is neither 1 nor the number of prompts,
            `max_length` is more than the model takes, or a prompt is longer than the transformer takes.
    """
    prompts, against = _listed(prompt), _listed(negative)
    known = ModelFacts(model.family.name, configs=_configs(model))
    facts = TextEncodeFacts(model=known, prompt=tuple(prompts), negative=tuple(against), max_length=max_length)
    require(_check, facts)
    length = max_length or model.family.max_length
    texts = {"positive": prompts}
    if "negative" in wanted:
        against = against or [""]
        # One row for each prompt, as in the pipelines. Rounding may differ with the size of the batch.
        texts["negative"] = against * len(texts["positive"]) if len(against) == 1 else against
    for name, entries in texts.items():
        for each in dict.fromkeys(entries):
            named = _named(name, entries, each)
            for message in _cut_messages(model, named, model.family.cut_ends(model, each, length)):
                run.warn(message, "prompt" if name == "positive" else name)
    encoded = {name: model.family.encode_text(model, entries, length) for name, entries in texts.items()}
    if padding == "cut":
        encoded = {name: model.family.cut_padding(tensors) for name, tensors in encoded.items()}
    return Conditioning(encoded["positive"], encoded.get("negative"), model.family.name)


def _named(name: str, entries: list[str], prompt: str) -> str:
    """A prompt by its place among several, counted from 1; equal prompts are named together."""
    places = [str(place) for place, entry in enumerate(entries, 1) if entry == prompt]
    if len(places) == len(entries):
        return f"the {name} prompt is"
    if len(places) == 1:
        return f"the {name} prompt {places[0]} of {len(entries)} is"
    return f"the {name} prompts {', '.join(places[:-1])} and {places[-1]} of {len(entries)} are"


def _cut_messages(model: Model, named: str, ends: list[CutEnd]) -> Iterator[str]:
    """A sentence for each encoder that does not read the whole prompt."""
    longest = model.family.longest_prompt(_configs(model))
    for end in ends:
        tokens = f"the last {end.dropped} tokens are" if end.dropped > 1 else "the last token is"
        words = f"{end.words[:QUOTED].rstrip()}…" if len(end.words) > QUOTED else end.words
        if end.further is not None:
            reads_on = all(other.encoder != end.further for other in ends)
            cure = "put the words that matter first" + (f"; {end.further} reads all of them" if reads_on else "")
        else:
            cure = "shorten the prompt" + (", or raise `max_length`" if longest is None or end.limit < longest else "")
        yield (
            f"{named} longer than {end.limit} tokens, all that {end.encoder} reads: {tokens} dropped, “{words}”; {cure}"
        )


def _configs(model: Model) -> Configs:
    return {part: model.config(part) for part in ("text_encoder", "transformer")}


def _listed(texts: list[str] | str | None) -> list[str]:
    return [texts] if isinstance(texts, str) else list(texts or [])
