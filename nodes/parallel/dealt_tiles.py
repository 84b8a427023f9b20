"""Tiles of a VAE, dealt to the processes: each computes some, and all blend them as diffusers does.

diffusers' loop over tiles runs twice. The first run notes the calls of the decoder or encoder, and ends before the
first blending. Each process makes the calls of its tiles then. In the second run the results stand in for the calls:
the owner of a tile sends it to the others when the loop reaches it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple, NoReturn

import torch
import torch.distributed as dist

from ...graph.contract.processes import Processes
from ..models.ranks.collectives import GROUPS, bytes_of, members
from ..support import cost_meter

METHODS = {"decoder": ("tiled_decode",), "encoder": ("_tiled_encode", "tiled_encode")}
"""The method with the loop over tiles, by the part that it calls; the first that a VAE has."""

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
SIZES = 5
"""Most dimensions of a result."""


class Call(NamedTuple):
    """The arguments of one call. Calls with one list of earlier frames, `feat_cache`, belong to one tile."""

    arguments: tuple[Any, ...]
    named: dict[str, Any]


class Form(NamedTuple):
    """Shape and dtype of a result."""

    shape: tuple[int, ...]
    dtype: torch.dtype


class _AllNoted(Exception):
    """Ends the first run of the loop."""


def has_tiles(vae: Any, height: int, width: int) -> bool:
    """Whether a VAE works tile by tile on frames of so many pixels."""
    if not getattr(vae, "use_tiling", False):
        return False
    if hasattr(vae, "tile_sample_min_height"):
        return bool(height > vae.tile_sample_min_height or width > vae.tile_sample_min_width)
    return bool(max(height, width) > vae.tile_sample_min_size)


def pixels_of_latent(vae: Any) -> int:
    """Rows of pixels for each row of latents, and columns for each column."""
    found: int = getattr(vae, "spatial_compression_ratio", None) or 2 ** (len(vae.config.block_out_channels) - 1)
    return found


def dealt(costs: Sequence[int], ranks: int) -> list[int]:
    """The owner of each tile: the largest first, each to the rank with the least work so far."""
    work, owners = [0] * ranks, [0] * len(costs)
    for number in sorted(range(len(costs)), key=lambda number: -costs[number]):
        owners[number] = min(range(ranks), key=work.__getitem__)
        work[owners[number]] += costs[number]
    return owners


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute of an instance inside `with`. Afterwards it has the one before, its own or that of its class."""
    before = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        delattr(owner, name)
        if before is not None:
            setattr(owner, name, before)


@contextmanager
def dealt_tiles(processes: Processes, vae: Any, part: str) -> Iterator[None]:
    """Let the processes share the tiles of a VAE inside `with`. All of them have the same input, and get all frames.

    Args:
        processes: The processes of the run.
        vae: A VAE of diffusers, or a view of one.
        part: `decoder` or `encoder`.
    """
    name = next(name for name in METHODS[part] if hasattr(vae, name))
    loop: Callable[..., Any] = getattr(vae, name)
    module = getattr(vae, part)

    def shared(*args: Any, **kwargs: Any) -> Any:
        tiles = _noted(vae, module, lambda: loop(*args, **kwargs))
        parts = _Tiles(processes, members(processes, "all"), module.forward).results(tiles)
        with replaced(module, "forward", lambda *args, **kwargs: next(parts)):
            return loop(*args, **kwargs)

    with replaced(vae, name, shared):
        yield


def _noted(vae: Any, module: Any, loop: Callable[[], Any]) -> list[list[Call]]:
    """The calls of a module for each tile. A tensor of zeros stands in for each result until the tiles are blended."""
    tiles: list[list[Call]] = []
    channels = getattr(getattr(vae, "quant_conv", None), "in_channels", 1)
    known: object = None

    def note(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        nonlocal known
        cache = kwargs.get("feat_cache")
        if cache is None or cache is not known:
            tiles.append([])
        known = cache
        tiles[-1].append(Call((x, *args), kwargs))
        return x.new_zeros(1, channels, *[1] * (x.ndim - 2))

    def stop(*_: Any) -> NoReturn:
        raise _AllNoted

    with ExitStack() as stack:
        stack.enter_context(suppress(_AllNoted))
        stack.enter_context(replaced(module, "forward", note))
        for name in ("blend_v", "blend_h"):
            stack.enter_context(replaced(vae, name, stop))
        loop()
    return tiles


@dataclass(frozen=True)
class _Tiles:
    """The exchange of tiles.

    Attributes:
        processes: The processes of the run.
        group: The name of the group of all.
        forward: Computes one call.
    """

    processes: Processes
    group: str
    forward: Callable[..., torch.Tensor]

    def results(self, tiles: list[list[Call]]) -> Iterator[torch.Tensor]:
        """Compute the own tiles, and give the result of each call of all tiles, in their order.

        Args:
            tiles: The calls of each tile, of which none are left afterwards.
        """
        size, rank = self.processes.size, self.processes.rank
        owners = dealt([sum(call.arguments[0].numel() for call in tile) for tile in tiles], size)
        device = tiles[0][0].arguments[0].device
        lengths = [len(tile) for tile in tiles]
        own: dict[int, list[torch.Tensor]] = {}
        forms: dict[int, list[Form]] = {}
        for number in [n for n, owner in enumerate(owners) if owner == rank]:
            own[number] = self._computed(tiles[number])
            forms[number] = _forms(own[number])
        if device.type == "meta":  # a plan cannot ask the owners
            for number in [n for n, owner in enumerate(owners) if owner != rank]:
                with cost_meter.attempt() as attempt:
                    forms[number] = _forms(self._computed(tiles[number]))
                attempt.undo()
        tiles.clear()
        known = self._all_forms(forms, lengths)
        return self._each(own, owners, known, device)

    def _computed(self, tile: list[Call]) -> list[torch.Tensor]:
        """The results of a tile's calls, whose arguments, with frames that they keep, are free afterwards."""
        made = [self.forward(*call.arguments, **call.named) for call in tile]
        tile.clear()
        return made

    def _all_forms(self, forms: dict[int, list[Form]], lengths: list[int]) -> list[list[Form]]:
        """The forms of all tiles, where each process knows those of its own."""
        table = torch.zeros(len(lengths), max(lengths), SIZES + 1, dtype=torch.int64)
        for number, found in forms.items():
            for call, form in enumerate(found):
                shape = [*form.shape, *[0] * (SIZES - len(form.shape))]
                table[number, call] = torch.tensor([*shape, DTYPES.index(form.dtype)])
        GROUPS[self.group].exchange(8 * table.numel() * (self.processes.size - 1), dist.all_reduce, table)
        return [
            [Form(tuple(n for n in sizes if n), DTYPES[dtype]) for *sizes, dtype in rows[:length]]
            for rows, length in zip(table.tolist(), lengths, strict=True)
        ]

    def _each(
        self, own: dict[int, list[torch.Tensor]], owners: list[int], forms: list[list[Form]], device: torch.device
    ) -> Iterator[torch.Tensor]:
        for number, owner in enumerate(owners):
            yield from self._sent(own.pop(number, None), owner, forms[number], device)

    def _sent(
        self, own: list[torch.Tensor] | None, owner: int, forms: list[Form], device: torch.device
    ) -> list[torch.Tensor]:
        """Send an own tile to all others, or receive one."""
        sizes = [prod(form.shape) * form.dtype.itemsize for form in forms]
        if own is None:
            whole = torch.empty(sum(sizes), dtype=torch.uint8, device=device)
        else:
            whole = torch.cat([bytes_of(each.contiguous()) for each in own])
            own.clear()
        sent = 0 if owner != self.processes.rank else len(whole) * (self.processes.size - 1)
        GROUPS[self.group].exchange(sent, dist.broadcast, whole, group_src=owner)
        return [each.view(form.dtype).view(form.shape) for each, form in zip(whole.split(sizes), forms, strict=True)]


def _forms(made: list[torch.Tensor]) -> list[Form]:
    return [Form(tuple(each.shape), each.dtype) for each in made]
