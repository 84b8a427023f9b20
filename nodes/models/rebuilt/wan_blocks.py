"""Wan's block, rebuilt: self attention, cross attention to the text (and a first frame), feed-forward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import Linear

from ..row_kernels import products, rows
from ..row_kernels.products import Part
from .block_parts import NormWeights, Once, attend, known, of_doubled, rms_weight

TEXT_LENGTH = 512
"""Tokens of a prompt behind those of an image, as in `WanAttnProcessor`."""


def few_timesteps(once: Once, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call Wan 2.2 TI2V's transformer, which takes one timestep for each token, with one or two timesteps.

    All tokens of a clip have one timestep, except that those of a given first frame have another. This is read from the
    device, which waits for it, at the first step of a loop.
    """
    timestep = kwargs.get("timestep")  # [B, S], or [B]
    if isinstance(timestep, torch.Tensor) and timestep.ndim == 2 and timestep.shape[1] > 1:
        if timestep.is_meta:
            return call(*args, **{**kwargs, "timestep": timestep[:, 0]})
        changes = once.kept("changes of the timestep", len(timestep), lambda: _changes(timestep))
        if not changes:
            return call(*args, **{**kwargs, "timestep": timestep[:, 0]})
        if len(changes) == 1:
            once.first_rows = changes[0] + 1
    return call(*args, **kwargs)


def _changes(timestep: torch.Tensor) -> list[int]:
    """The tokens after which the timestep changes in any row of [B, S]."""
    found: list[int] = (timestep[:, 1:] != timestep[:, :-1]).sum(0).nonzero().flatten().tolist()
    return found


class WanBlock:
    """The forward of a `WanTransformerBlock`.

    Attributes:
        leads: Whether the block is the transformer's first.
    """

    def __init__(self, block: Any, once: Once) -> None:
        self.own, self.block, self.once = block.forward, block, once
        self.leads = False
        self.own_attention, self.cross = block.attn1, block.attn2
        self.qkv = self.own_attention.to_q, self.own_attention.to_k, self.own_attention.to_v
        self.text_kv = self.cross.to_k, self.cross.to_v
        self.image_kv = (self.cross.add_k_proj, self.cross.add_v_proj) if self.cross.add_k_proj is not None else None
        self.own_norms = NormWeights([self.own_attention.norm_q], [self.own_attention.norm_k])
        self.text_norms = NormWeights([self.cross.norm_q], [self.cross.norm_k])
        self.image_norms = NormWeights([self.cross.norm_q], [self.cross.norm_added_k]) if self.image_kv else None
        self.up, self.down = block.ffn.net[0].proj, block.ffn.net[2]

    def fits(self) -> bool:
        own, cross = self.own_attention, self.cross
        layers = (*self.qkv, own.to_out[0], cross.to_q, *self.text_kv, cross.to_out[0], self.up, self.down)
        norms = own.norm_q, own.norm_k, cross.norm_q, cross.norm_k
        affine = getattr(self.block.norm2, "bias", None) is not None  # not without `cross_attn_norm`
        return known(*layers, *(self.image_kv or ())) and all(map(rms_weight, norms)) and affine

    def joins(self) -> Sequence[Sequence[Linear]]:
        return [self.qkv, self.text_kv, *([self.image_kv] if self.image_kv is not None else [])]

    def modulation_bytes(self) -> int:
        return 0

    def __call__(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        temb: torch.Tensor,
        rotary_emb: tuple[torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        first, vectors = self._modulation(temb, hidden_states.shape[1])
        if vectors is None:
            made: torch.Tensor = self.own(hidden_states, encoder_hidden_states, temb, rotary_emb)
            return made
        block = self.block
        *before, shift_2, scale_2, gate_2 = vectors
        x, normed = self._entered(hidden_states, before, rotary_emb, first)
        y = products.linear(self._crossed(normed, encoder_hidden_states), self.cross.to_out[0])
        length, format = x.shape[1], products.format_of(self.up)
        x, normed = rows.add_norm(x, y, None, scale_2, shift_2, eps=block.norm3.eps, first=first, format=format)
        y = products.feed_forward(normed, [Part(0, length, (self.up,))], [Part(0, length, (self.down,))])
        return rows.add(x, y, gate_2, first=first, in_place=True)

    def _entered(
        self,
        hidden: torch.Tensor,
        vectors: Sequence[torch.Tensor],
        rotary_emb: tuple[torch.Tensor, torch.Tensor],
        first: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The sum after self attention, and the input of cross attention, both [B, S, D].

        In the first block these do not depend on the prompt: the branches of a step share them.
        """
        call, batch = self.once.call, len(hidden)
        if not self.leads or call is None or batch != call.rows:
            return self._self_attended(hidden, vectors, rotary_emb, first)
        if call.branches > 1:
            alone = batch // call.branches
            some = [vector[:alone] for vector in vectors]
            x, normed = self._self_attended(hidden[:alone], some, rotary_emb, first)
            return x.repeat(call.branches, 1, 1), normed.repeat(call.branches, 1, 1)
        if call.step is None:
            return self._self_attended(hidden, vectors, rotary_emb, first)
        made: list[tuple[torch.Tensor, torch.Tensor]] = []

        def add() -> torch.Tensor:
            made.append(self._self_attended(hidden, vectors, rotary_emb, first))
            return made[0][0]

        x = call.step.of(self, add)
        return made[0] if made else (x, rows.norm(x, *self._affine(), eps=self.block.norm2.eps, plus_one=False))

    def _affine(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight and bias of the norm before cross attention, [1, 1, D]."""
        return self.block.norm2.weight[None, None], self.block.norm2.bias[None, None]

    def _self_attended(
        self,
        hidden: torch.Tensor,
        vectors: Sequence[torch.Tensor],
        rotary_emb: tuple[torch.Tensor, torch.Tensor],
        first: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        block, own = self.block, self.own_attention
        batch, length, _ = hidden.shape
        shift, scale, gate = vectors
        format = products.format_of(*self.qkv)
        normed = rows.norm(hidden, scale, shift, eps=block.norm1.eps, first=first, format=format)
        qkv = products.linear(normed, *self.qkv).view(batch, length, 3, own.heads, -1)
        cos, sin = rotary_emb  # [1, S, 1, D], each angle twice
        table = self.once.positions(cos, lambda: of_doubled(cos[0, :, 0], sin[0, :, 0]))
        norms = self.own_norms.on(hidden.device)
        rows.query_key_(qkv, norms.query, norms.key, table.cos, table.sin, eps=own.norm_q.eps, across=True)
        y = products.linear(attend(own, *qkv.unbind(2), norms=norms), own.to_out[0])
        return rows.add_norm(hidden, y, gate, *self._affine(), eps=block.norm2.eps, plus_one=False, first=first)

    def _modulation(self, temb: torch.Tensor, length: int) -> tuple[int, list[torch.Tensor] | None]:
        """Rows of the first group, and six vectors [B, groups, D]; None if each row has a timestep of its own."""
        table = self.block.scale_shift_table  # [1, 6, D]
        if temb.ndim == 3:
            return 0, list((table + temb.float()).unsqueeze(1).unbind(2))
        first = self.once.first_rows
        if not 0 < first < length or temb.shape[1] != length:
            return 0, None
        two = torch.stack([temb[:, 0], temb[:, first]], dim=1)  # [B, 2, 6, D]
        return first, list((table.unsqueeze(0) + two.float()).unbind(2))

    def _crossed(self, normed: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """Cross attention before its last layer, [B, S, D]."""
        cross, norms = self.cross, self.text_norms.on(normed.device)
        query = products.linear(normed, cross.to_q)
        query = rows.norm(query, norms.query[None], None, kind="rms", eps=cross.norm_q.eps, plus_one=False)
        query = query.unflatten(2, (cross.heads, -1))
        if self.image_kv is None or self.image_norms is None:
            return attend(cross, query, *self._of_prompt("text", context, self.text_kv, cross.norm_k), norms=norms)
        picture, text = context[:, :-TEXT_LENGTH], context[:, -TEXT_LENGTH:]
        kept = self._of_prompt("picture", picture, self.image_kv, cross.norm_added_k)
        seen = attend(cross, query, *kept, norms=self.image_norms.on(normed.device))
        return attend(cross, query, *self._of_prompt("text", text, self.text_kv, cross.norm_k), norms=norms) + seen

    def _of_prompt(
        self, name: str, context: torch.Tensor, layers: Sequence[Linear], norm: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of a prompt or a picture, which are the same at each step."""
        return self.once.kept((self, name), len(context), lambda: self._keys_values(context, layers, norm))

    def _keys_values(
        self, context: torch.Tensor, layers: Sequence[Linear], norm: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        key, value = products.linear(context.contiguous(), *layers).unflatten(2, (2, self.cross.heads, -1)).unbind(2)
        weight = norm.weight[None, None]
        key = rows.norm(key.flatten(2), weight, None, kind="rms", eps=norm.eps, plus_one=False).view(key.shape)
        return key, value
