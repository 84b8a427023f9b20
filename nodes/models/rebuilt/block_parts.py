"""Parts of rebuilt blocks of several families: streams in one buffer, attention, and modulation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch.nn import Linear, Module
from torch.nn import functional as F

from ..row_kernels import products
from ..row_kernels.head_norms import HeadNorms, knowing
from ..row_kernels.quantized_products import QuantizedLinear
from .loop_values import BranchCall, LoopSteps, Values
from .step_tables import Table

T = TypeVar("T")


class RebuiltBlock(Protocol):
    """A block's forward on row kernels, with the arguments and results of the block's own forward."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    def fits(self) -> bool:
        """Whether the block's layers are those that the rebuilt forward computes."""
        ...

    def joins(self) -> Sequence[Sequence[Linear]]:
        """Layers with one input, whose weights may stand in one buffer."""
        ...

    def modulation_bytes(self) -> int:
        """Bytes of the block's modulation at one step for one row; 0 if it is not computed for all steps at once."""
        ...


class Once:
    """Values that all blocks of one forward share, computed by the first block that needs them.

    A value belongs to the tensor from which it is made: another tensor makes another value.

    Attributes:
        first_rows: Rows of a first frame, which have a timestep of their own; 0 if all rows have one timestep.
        cut: Whether the blocks have a part of the tokens, whose attentions all processes of a sequence compute.
        call: The facts that the caller told about the forward; None if it told nothing.
        rows: Rows of the forward's batch.
        last: The streams that the last block returned, and the buffer in which it computed them.
        modulation_bytes: Bytes of the modulation of all blocks at one step for one row.
    """

    def __init__(self) -> None:
        self._made: dict[str, tuple[torch.Tensor, Any]] = {}
        self._calls: dict[Any, int] = {}
        self._tables: dict[int, tuple[torch.Tensor, Table]] = {}
        self.first_rows = self.rows = self.modulation_bytes = 0
        self.cut = False
        self.call: BranchCall | None = None
        self.last: tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor] | None = None

    def of(self, name: str, source: torch.Tensor, make: Callable[[], T]) -> T:
        """The value `name` of a tensor."""
        held = self._made.get(name)
        if held is None or held[0] is not source:
            held = self._made[name] = source, make()
        made: T = held[1]
        return made

    def clear(self) -> None:
        """Drop all values, at the end of a forward."""
        self._made.clear()
        self._calls.clear()
        self._tables.clear()
        self.first_rows, self.rows, self.last = 0, 0, None

    @property
    def prompt(self) -> Values | None:
        """Values of the prompts of all rows; None if the caller keeps none, or asks for some of the rows only."""
        whole = self.call is not None and self.rows == self.call.rows
        return self.call.prompt if self.call is not None and whole else None

    @property
    def steps(self) -> LoopSteps | None:
        """The steps of the loop; None if the caller told nothing about them."""
        return self.call.steps if self.call is not None else None

    def row(self, table: Table, rows: int) -> torch.Tensor:
        """The part of a table for this step, [rows, …]. `table_of` knows it."""
        assert self.steps is not None, "without steps there are no tables"
        made = table.at(self.steps)
        made = made if len(made) == rows else made.expand(rows, *made.shape[1:])
        self._tables[id(made)] = made, table
        return made

    def table_of(self, tensor: torch.Tensor | None) -> Table | None:
        """The table of which a tensor is the part for this step; None for every other tensor.

        A gate that leaves out rows of a batch makes another tensor.
        """
        held = self._tables.get(id(tensor))
        return None if held is None else held[1]

    def first_row(self, tensor: torch.Tensor) -> torch.Tensor:
        """The first row of a tensor whose rows are equal. `table_of` knows it too."""
        made, table = tensor[:1], self.table_of(tensor)
        if table is not None:
            self._tables[id(made)] = made, table
        return made

    def kept(self, key: Any, rows: int, make: Callable[[], T]) -> T:
        """A value of the prompts of a block's batch, which has `rows` rows: kept from step to step, or made now.

        A gate may leave out rows of the forward's batch.
        """
        prompt = self.prompt
        return make() if prompt is None or rows != self.rows else prompt.of(key, make)

    def positions(self, source: torch.Tensor, make: Callable[[], T]) -> T:
        """The rotary table of the transformer's only sequence, made from `source`: kept from step to step."""
        prompt = self.prompt
        return self.of("positions", source, make if prompt is None else lambda: prompt.of("positions", make))

    def number_of_call(self, caller: Any) -> int:
        """How often `caller` asked in this forward before."""
        number = self._calls.get(caller, 0)
        self._calls[caller] = number + 1
        return number


def known(*layers: Any) -> bool:
    """Whether all layers are linear layers, quantised or not, whose weights a product may read."""
    return all(type(layer) in (Linear, QuantizedLinear) for layer in layers)


def rms_weight(module: Any) -> bool:
    """Whether a norm is a root-mean-square norm with weights and without a bias."""
    return isinstance(getattr(module, "weight", None), torch.Tensor) and getattr(module, "bias", None) is None


def together(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Two streams [B, S, D] as one sequence; without a copy if they are neighbours in one buffer.

    A rebuilt block returns its streams as two views of one buffer, so that the next block finds them together.
    """
    (batch, rows, width), more = first.shape, second.shape[1]
    long = ((rows + more) * width, width, 1)
    strides = long if batch > 1 else (first.stride(0), width, 1)
    if (
        first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()
        and first.dtype == second.dtype
        and first.stride() == second.stride() == strides
        and second.storage_offset() == first.storage_offset() + rows * width
    ):
        return first.as_strided((batch, rows + more, width), long)
    return torch.cat([first, second], dim=1)


def attend(
    attention: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None = None,
    *,
    norms: HeadNorms,
) -> torch.Tensor:
    """Attention through the backend of an attention module's processor.

    Args:
        attention: A module with a processor of diffusers.
        query: [B, S, H, D]; keys and values have a length of their own.
        mask: The mask that diffusers' processor gives to its dispatch.
        norms: The norms through which queries and keys went.

    Returns:
        [B, S, H·D].
    """
    from diffusers.models.attention_dispatch import dispatch_attention_fn

    processor = attention.processor
    with knowing(norms):
        made: torch.Tensor = dispatch_attention_fn(
            query, key, value, attn_mask=mask, dropout_p=0.0, is_causal=False, backend=processor._attention_backend
        )
    return made.flatten(2).to(query.dtype)


def modulation(once: Once, owner: Any, temb: torch.Tensor, layers: Sequence[Linear], count: int) -> list[torch.Tensor]:
    """Modulation vectors of one or two groups of rows. If the embedding is part of a table, so are they.

    Args:
        once: Values of this forward.
        owner: The block.
        temb: The embedding of the timestep, [B, width].
        layers: One layer for each group.
        count: Number of vectors.

    Returns:
        `count` vectors [B or 1, groups, D].
    """
    table = once.table_of(temb)
    if table is None:
        made = _side_by_side(once.of("silu", temb, lambda: F.silu(temb)), layers)
    else:
        key = owner, "modulation"
        made = table.then(key, lambda whole: _side_by_side(F.silu(whole), layers), axis=1).at(once.steps)
    return list(made.unflatten(-1, (count, -1)).permute(2, 1, 0, 3).unbind(0))


def _side_by_side(x: torch.Tensor, layers: Sequence[Linear]) -> torch.Tensor:
    """The results of layers for one input [..., width]: [layers, ..., outputs]."""
    out = torch.empty((len(layers), *x.shape[:-1], len(layers[0].weight)), device=x.device, dtype=x.dtype)
    for number, layer in enumerate(layers):
        products.product_(out[number].flatten(0, -2), x.flatten(0, -2), layer.weight, layer.bias, False)
    return out


def outputs(*layers: Linear) -> int:
    """Bytes of one row of the layers' results."""
    return sum(len(layer.weight) * layer.weight.element_size() for layer in layers)


class NormWeights:
    """The norms of queries and keys, with one module for each group of rows; made at the first call on a device."""

    def __init__(self, queries: Sequence[Module], keys: Sequence[Module]) -> None:
        self.queries, self.keys = queries, keys
        self.made: dict[torch.device, HeadNorms] = {}

    def on(self, device: torch.device) -> HeadNorms:
        """The norms on a device."""
        if device not in self.made:
            self.made[device] = HeadNorms(_stacked(self.queries).to(device), _stacked(self.keys).to(device))
        return self.made[device]


def _stacked(modules: Sequence[Module]) -> torch.Tensor:
    """Weights of one norm for each group of rows: [groups, D]."""
    weights: list[Any] = [module.weight for module in modules]
    return weights[0].detach()[None] if len(weights) == 1 else torch.stack(weights).detach()


@dataclass(frozen=True)
class Positions:
    """Rotary tables: rows from `start` on turn by these angles, [B or 1, P, D / 2], float32 and contiguous."""

    cos: torch.Tensor
    sin: torch.Tensor
    start: int = 0


def of_complex(table: torch.Tensor) -> Positions:
    """Rotary tables of a complex table [B or 1, P, D / 2]."""
    parts = torch.view_as_real(table).float()
    return Positions(parts[..., 0].contiguous(), parts[..., 1].contiguous())


def of_doubled(cos: torch.Tensor, sin: torch.Tensor) -> Positions:
    """Rotary tables of diffusers' tables [P, D], in which each angle stands twice."""
    return Positions(cos[None, :, ::2].float().contiguous(), sin[None, :, ::2].float().contiguous())
