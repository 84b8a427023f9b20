"""Z-Image's block, rebuilt, with and without modulation (the refiner of prompts has none)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import Linear

from ..row_kernels import products, rows
from .block_parts import NormWeights, Once, attend, known, of_complex, rms_weight


class ZImageBlock:
    """The forward of a `ZImageTransformerBlock`."""

    def __init__(self, block: Any, once: Once) -> None:
        self.own, self.block, self.once = block.forward, block, once
        self.attention, feed = block.attention, block.feed_forward
        self.qkv = self.attention.to_q, self.attention.to_k, self.attention.to_v
        self.out, self.up, self.down = self.attention.to_out[0], (feed.w1, feed.w3), feed.w2
        self.weights = NormWeights([self.attention.norm_q], [self.attention.norm_k])
        self.norms = block.attention_norm1, block.attention_norm2, block.ffn_norm1, block.ffn_norm2

    def fits(self) -> bool:
        norms = self.attention.norm_q, self.attention.norm_k, *self.norms
        modulations = [self.block.adaLN_modulation[0]] if self.block.modulation else []
        layers = *self.qkv, self.out, *self.up, self.down
        return known(*layers) and products.plain(*modulations) and all(map(rms_weight, norms))

    def joins(self) -> Sequence[Sequence[Linear]]:
        return [self.qkv, self.up]

    def modulation_bytes(self) -> int:
        width = len(self.out.weight)
        return 4 * width * torch.float32.itemsize if self.block.modulation else 0

    def __call__(
        self,
        x: torch.Tensor,
        attn_mask: torch.Tensor | None,
        freqs_cis: torch.Tensor,
        adaln_input: torch.Tensor | None = None,
        noise_mask: torch.Tensor | None = None,
        adaln_noisy: torch.Tensor | None = None,
        adaln_clean: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if noise_mask is not None or freqs_cis is None:
            made: torch.Tensor = self.own(x, attn_mask, freqs_cis, adaln_input, noise_mask, adaln_noisy, adaln_clean)
            return made
        batch, length, _ = x.shape
        scale, gate, scale_2, gate_2 = self._vectors(adaln_input)
        in_1, out_1, in_2, out_2 = (norm.eps for norm in self.norms)
        format = products.format_of(*self.qkv)
        normed = rows.norm(x, scale, None, kind="rms", eps=in_1, plus_one=False, format=format)
        qkv = products.linear(normed, *self.qkv).view(batch, length, 3, self.attention.heads, -1)
        norms = self.weights.on(x.device)
        table = self.once.of("positions", freqs_cis, lambda: of_complex(freqs_cis))
        rows.query_key_(qkv, norms.query, norms.key, table.cos, table.sin, eps=self.attention.norm_q.eps)
        mask = attn_mask[:, None, None, :] if attn_mask is not None and attn_mask.ndim == 2 else attn_mask
        query, key, value = qkv.unbind(2)
        y = products.linear(attend(self.attention, query, key, value, mask, norms=norms), self.out)
        norm: dict[str, Any] = {"kind": "rms", "eps": in_2, "plus_one": False, "y_eps": out_1}
        x, normed = rows.add_norm(x, y, gate, scale_2, None, **norm, format=products.format_of(*self.up))
        y = products.linear(rows.silu_product(products.linear(normed, *self.up)), self.down)
        return rows.add(x, y, gate_2, y_eps=out_2, in_place=True)

    def _vectors(self, adaln_input: torch.Tensor | None) -> list[torch.Tensor]:
        """Factors [B or 1, 1, D] of the two norms before a product and the two after one, in float32."""
        if not self.block.modulation:
            return list(self._weights()[:, None, None].unbind(0))
        assert adaln_input is not None, "the transformer gives it to blocks with modulation"
        table = self.once.table_of(adaln_input)
        if table is None:
            return list(self._factors(adaln_input).unbind(0))
        return list(table.then((self, "modulation"), self._factors, axis=1).at(self.once.steps).unbind(0))

    def _weights(self) -> torch.Tensor:
        return torch.stack([norm.weight for norm in self.norms]).float()  # [4, D]

    def _factors(self, adaln_input: torch.Tensor) -> torch.Tensor:
        """The factors of modulation and norms for embeddings [..., width]: [4, ..., 1, D]."""
        made = self.block.adaLN_modulation(adaln_input).float().unflatten(-1, (4, 1, -1))
        scale, gate, scale_2, gate_2 = made.unbind(-3)  # [..., 1, D]
        factors = torch.stack([1 + scale, gate.tanh(), 1 + scale_2, gate_2.tanh()])
        return self._weights().view(4, *[1] * (factors.ndim - 2), -1) * factors
