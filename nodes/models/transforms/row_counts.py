"""Count the rows that linear layers of a transformer get in a run, from its latents and prompts."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ....graph.contract.node import Run
from ...values import Branches, Conditioning, Latents

TEXT = re.compile(r"\b(add_[qkv]_proj|to_add_out|ff_context|txt_mlp)\b")
"""Layers of a block through which the text alone goes, by their names in diffusers."""

JOINT = ("single_transformer_blocks", "layers")
"""Lists of blocks whose layers take image and text in one sequence."""

PATCH = 2
"""Width and height of a patch where the configuration does not name it."""


@dataclass(frozen=True)
class RowCounts:
    """Rows of one call: tokens of the latents, and of the text, of all clips."""

    latents: int
    text: int

    def of(self, path: str) -> int:
        """The rows of a layer, by its path in the transformer."""
        if TEXT.search(path):
            return self.text
        return self.latents + (self.text if path.split(".")[0] in JOINT else 0)


def row_counts(run: Run, config: Mapping[str, Any]) -> RowCounts | None:
    """The rows of a transformer with this configuration; None if the run has made no latents.

    Several latents or prompts give the largest count.
    """
    values = list(_flat(run.at_hand()))
    sizes = [each.tensor.shape for each in values if isinstance(each, Latents)]
    if not sizes:
        return None
    prompts = [each.conditioning if isinstance(each, Branches) else each for each in values]
    lengths = [_text(each) for each in prompts if isinstance(each, Conditioning)]
    clips, tokens = max(((shape[0], _tokens(shape, config)) for shape in sizes), key=math.prod)
    return RowCounts(clips * tokens, clips * max(lengths, default=0))


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        yield from value if isinstance(value, list | tuple) else (value,)


def _tokens(shape: tuple[int, ...], config: Mapping[str, Any]) -> int:
    """Tokens of one clip: [B, tokens, C], or [B, C, F, H, W] or [B, C, H, W] in patches."""
    if len(shape) == 3:
        return shape[1]
    patch = config.get("patch_size", PATCH)
    volume = math.prod(patch) if isinstance(patch, list | tuple) else patch**2 * config.get("patch_size_t", 1)
    return math.prod(shape[2:]) // volume


def _text(prompts: Conditioning) -> int:
    """The most tokens of an encoded prompt, without padding where its end is known."""
    found = [0]
    for tensors in (prompts.positive, prompts.negative):
        if tensors is None:
            continue
        if "lengths" in tensors:
            found.append(int(tensors["lengths"].max()))
        elif "encoder_attention_mask" in tensors:
            found.append(int(tensors["encoder_attention_mask"].sum(1).max()))
        else:
            found += [tensor.shape[1] for tensor in tensors.values() if tensor.ndim == 3]
    return max(found)
