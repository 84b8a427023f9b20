"""Calls of tokenizers and text encoders that families share, as the `encode_prompt` of diffusers' pipelines makes them.

The pipelines themselves are not used, because importing one takes time at every start.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ..support.lazy import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


def cleaned(prompt: str) -> str:
    """A prompt as `prompt_clean` of WanPipeline makes it: mended by ftfy if it is installed, in single spaces.

    ftfy changes nothing in printable ASCII without entities, so it is not imported for such a prompt.
    """
    plain = prompt.isascii() and prompt.isprintable() and "&" not in prompt
    if not plain and find_spec("ftfy") is not None:
        import ftfy

        prompt = ftfy.fix_text(prompt)
    return re.sub(r"\s+", " ", html.unescape(html.unescape(prompt))).strip()


def padded_tokens(tokenizer: Any, texts: Sequence[str], length: int) -> Any:
    """The tokens of texts, cut or padded to `length`: `input_ids` and `attention_mask`, int64 [texts, length], CPU."""
    return tokenizer(
        list(texts),
        padding="max_length",
        max_length=length,
        truncation=True,
        return_attention_mask=True,
        return_tensors="pt",
    )


def pooled(encoder: Any, tokenizer: Any, texts: Sequence[str], length: int, device: str) -> torch.Tensor:
    """CLIP's pooled embedding of each text, [texts, width]. CLIP reads the first `length` tokens."""
    tokens = padded_tokens(tokenizer, texts, length)
    made: torch.Tensor = encoder(tokens.input_ids.to(device), output_hidden_states=False).pooler_output
    return made


def hidden_states(encoder: Any, tokens: Any, device: str) -> Sequence[torch.Tensor]:
    """The hidden states of a language model before its first layer and after each, [texts, length, width]."""
    made: Sequence[torch.Tensor] = encoder(
        input_ids=tokens.input_ids.to(device),
        attention_mask=tokens.attention_mask.to(device),
        output_hidden_states=True,
    ).hidden_states
    return made


def own_rows(states: torch.Tensor, mask: torch.Tensor, device: str) -> list[torch.Tensor]:
    """The states of each text's own tokens, without padding, [tokens, width] each.

    Args:
        states: [texts, length, width] on the device.
        mask: [texts, length], 0 for padding, on the CPU: shapes depend on its values, and a plan's tensors have none.
        device: The device of the states.
    """
    places = [row.nonzero().squeeze(1).to(device) for row in mask]
    return [state.index_select(0, kept) for state, kept in zip(states, places, strict=True)]


def padded_rows(rows: Sequence[torch.Tensor], length: int) -> dict[str, torch.Tensor]:
    """Texts of different length as tensors.

    Returns:
        `embeddings`: [texts, length, width], zeros after the end of each text; `lengths`: [texts], int64, on the CPU.
    """
    padded = [torch.nn.functional.pad(row, (0, 0, 0, length - len(row))) for row in rows]
    return {"embeddings": torch.stack(padded), "lengths": torch.tensor([len(row) for row in rows])}
