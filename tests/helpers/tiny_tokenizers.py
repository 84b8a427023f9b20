"""Tokenizers of single bytes for the tiny models, without downloads or training."""

from __future__ import annotations

from typing import Any

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def bytes_vocabulary(specials: list[str], end: str = "") -> dict[str, int]:
    """Special tokens, then every byte as in byte-level BPE; with `end`, every byte again as the end of a word."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    entries = [*specials, *letters, *([letter + end for letter in letters] if end else [])]
    return {entry: number for number, entry in enumerate(dict.fromkeys(entries))}


def qwen2_tokenizer() -> Any:
    from transformers import Qwen2Tokenizer

    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    made = Qwen2Tokenizer(
        vocab=bytes_vocabulary(specials), merges=[], additional_special_tokens=specials[1:], model_max_length=2048
    )
    made.chat_template = CHAT
    return made


def clip_tokenizer() -> Any:
    from transformers import CLIPTokenizer

    vocabulary = bytes_vocabulary(["<|startoftext|>", "<|endoftext|>"], end="</w>")
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)
