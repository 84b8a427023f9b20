"""The ends of prompts that text encoders do not read, because an encoder takes a limited number of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class CutEnd:
    """The end of a prompt that one encoder does not read.

    Attributes:
        encoder: The encoder's name and its component: `CLIP (text_encoder)`.
        limit: Number of tokens of the prompt that it reads, with the tokens that mark the prompt's start and end.
        dropped: Number of the prompt's tokens that it does not read.
        words: The text of these tokens.
        further: The encoder that reads longer prompts, for one of a fixed limit; None if `max_length` sets the limit.
    """

    encoder: str
    limit: int
    dropped: int
    words: str
    further: str | None = None


def marked_end(tokenizer: Any, encoder: str, prompt: str, limit: int, further: str | None = None) -> list[CutEnd]:
    """The cut of an encoder whose last token marks the end of the prompt: T5, UMT5, CLIP.

    diffusers names the same tokens as `removed_text`: the mark takes the last place of a truncated prompt.
    """
    count = len(tokenizer(prompt, verbose=False).input_ids)
    if count <= limit:
        return []
    words = _words(tokenizer, prompt, limit - 1, count - 1, len(prompt))
    return [CutEnd(encoder, limit, count - limit, words, further)]


def templated_end(tokenizer: Any, encoder: str, text: str, end: str, start: int, limit: int) -> list[CutEnd]:
    """The cut of an encoder that reads the prompt inside a template.

    Args:
        tokenizer: The encoder's tokenizer.
        encoder: See `CutEnd`.
        text: The template with the prompt.
        end: The template's text after the prompt; it begins with a special token.
        start: Number of the template's tokens before the prompt that do not count.
        limit: Number of tokens that the encoder reads after those.
    """
    count = len(tokenizer(text, verbose=False).input_ids)
    if end:
        count -= len(tokenizer(end, add_special_tokens=False, verbose=False).input_ids)
    dropped = count - start - limit
    if dropped <= 0:
        return []
    return [CutEnd(encoder, limit, dropped, _words(tokenizer, text, start + limit, count, len(text) - len(end)))]


def _words(tokenizer: Any, text: str, first: int, stop: int, end: int) -> str:
    """The words of the tokens from `first` up to `stop`, as they stand in the text before its character `end`."""
    if tokenizer.is_fast:
        offsets = tokenizer(text, verbose=False, return_offsets_mapping=True).offset_mapping
        return text[offsets[first][0] : end].strip()
    return str(tokenizer.decode(tokenizer(text, verbose=False).input_ids[first:stop]))
