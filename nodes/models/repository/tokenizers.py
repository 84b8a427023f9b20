"""A stand-in for a tokenizer that is not on this disk, with equal vocabulary size and maximum length.

Plans and runs with dummy weights use only lengths and shapes. The stand-in splits text into words and punctuation, so
its prompts are a little shorter than those of the real tokenizer. The token ids differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DEFAULT_LENGTH = 512  # maximum of the T5-family pipelines; used if the configuration gives no maximum


def stand_in(encoder: Mapping[str, Any], config: Mapping[str, Any]) -> Any:
    """Build a tokenizer for the text encoder with the configuration `encoder`.

    Args:
        encoder: The text encoder's config.json: vocabulary size and ids of special tokens.
        config: The real tokenizer's config (`model_max_length`), as far as it is known; may be empty.

    Returns:
        A fast tokenizer. Its ids are in the encoder's vocabulary, and special tokens have the encoder's ids.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    text = encoder.get("text_config") or encoder
    length = int(text.get("vocab_size") or encoder.get("vocab_size") or 32_000)
    kind = str(encoder.get("model_type", ""))
    clip = "clip" in kind
    specials = {
        "pad_token": ("<pad>", _id(text.get("pad_token_id"), length, 0)),
        "eos_token": ("</s>", _id(text.get("eos_token_id"), length, 1)),
        "unk_token": ("<unk>", 2),
    }
    if clip or "llama" in kind:
        specials["bos_token"] = ("<s>", _id(text.get("bos_token_id"), length, 3))
    vocabulary: dict[str, int] = {}
    taken: set[int] = set()
    for role, (token, wanted) in specials.items():
        free = next(i for i in (wanted, *range(length)) if i not in taken)
        vocabulary[token] = free
        taken.add(free)
        specials[role] = (token, free)
    vocabulary |= {f"<{i}>": i for i in range(length) if i not in taken}

    # Every word becomes the unknown token, since only the length of the text matters.
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    template = None
    if clip:
        template = "<s> $A </s>"
    elif "t5" in kind:
        template = "$A </s>"
    elif "llama" in kind:
        template = "<s> $A"
    if template:
        used = [(token, number) for token, number in specials.values() if token in template]
        tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=used)
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=int(config.get("model_max_length") or (77 if clip else DEFAULT_LENGTH)),
        padding_side=str(config.get("padding_side") or "right"),
        **{role: token for role, (token, _) in specials.items()},
    )
    # Templates have words of their own, so that an empty prompt has tokens too.
    made.chat_template = "{% for message in messages %}user {{ message['content'] }} {% endfor %}assistant"
    return made


def _id(value: Any, length: int, default: int) -> int:
    if isinstance(value, list):
        value = value[0] if value else None
    return value if isinstance(value, int) and 0 <= value < length else default
