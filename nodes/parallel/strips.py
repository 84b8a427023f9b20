"""Decoding and encoding in strips of rows: each process has some rows of every frame.

A convolution of three rows takes one row of each neighbour. Sums of group norms are those of all strips. The blocks of
the smallest frames have attention over whole frames, and are computed on all rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from ...graph.contract.node import Run
from ...graph.contract.processes import Processes
from ..models.decoders.rebuilt_vae import is_rebuilt
from ..models.decoders.strip_rows import in_strips
from ..models.model import Model
from ..models.ranks.collectives import GROUPS, bytes_of, gather_parts, members, parts_of
from ..values import Size
from .dealt_tiles import dealt_tiles, has_tiles, pixels_of_latent, replaced


@dataclass(frozen=True)
class Strip:
    """The rows of this process, and its neighbours: the `Neighbours` of a decoder.

    Attributes:
        processes: The processes of the run.
        group: The name of the group of all.
        latent_rows: Rows of latents of each process.
    """

    processes: Processes
    group: str
    latent_rows: tuple[int, ...]

    @property
    def rank(self) -> int:
        return self.processes.rank

    def cut(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        """The own rows of a tensor with all rows."""
        scale = x.shape[dim] // sum(self.latent_rows)
        start = sum(self.latent_rows[: self.rank])
        return x.narrow(dim, scale * start, scale * self.latent_rows[self.rank])

    def gathered(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        """All rows, of which `x` has the own ones."""
        scale = x.shape[dim] // self.latent_rows[self.rank]
        return gather_parts(x, dim % x.ndim, [scale * rows for rows in self.latent_rows], self.rank, self.group)

    def whole(self, count: int) -> int:
        return count * sum(self.latent_rows) // self.latent_rows[self.rank]

    def total(self, numbers: torch.Tensor) -> torch.Tensor:
        total = numbers.double()
        GROUPS[self.group].exchange(8 * total.numel() * (self.processes.size - 1), dist.all_reduce, total)
        return total

    def rows(
        self, x: torch.Tensor, dim: int, above: int, below: int
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        size, rank, length = self.processes.size, self.rank, x.shape[dim]
        wanted = {-1: above if rank > 0 else 0, 1: below if rank < size - 1 else 0}
        given = {
            -1: x.narrow(dim, 0, below) if below and rank > 0 else None,
            1: x.narrow(dim, length - above, above) if above and rank < size - 1 else None,
        }
        received = {side: self._empty(x, dim, count) if count else None for side, count in wanted.items()}
        self._exchange(given, received)
        return received[-1], received[1]

    def _empty(self, x: torch.Tensor, dim: int, count: int) -> torch.Tensor:
        shape = list(x.shape)
        shape[dim] = count
        return x.new_empty(shape)

    def _exchange(self, given: dict[int, torch.Tensor | None], received: dict[int, torch.Tensor | None]) -> None:
        """Send tensors to the neighbours above (-1) and below (1), and receive theirs."""
        ranks, sent = self.processes.group("all").ranks, 0
        calls: list[tuple[Callable[..., Any], torch.Tensor, int]] = []
        for side, tensor in given.items():
            if tensor is not None:
                dense = bytes_of(tensor.contiguous())
                sent += dense.numel()
                calls.append((dist.isend, dense, ranks[self.rank + side]))
        for side, tensor in received.items():
            if tensor is not None:
                calls.append((dist.irecv, bytes_of(tensor), ranks[self.rank + side]))

        def exchange(group: Any) -> None:
            for waiting in dist.batch_isend_irecv([dist.P2POp(*call, group=group) for call in calls]):
                waiting.wait()

        if calls:
            GROUPS[self.group].exchange(sent, exchange)


class Rows(TorchFunctionMode):
    """Lets the modules of diffusers' VAEs work on strips: padding, convolutions and group norms see the other rows.

    Args:
        strip: The own rows.
    """

    def __init__(self, strip: Strip) -> None:
        super().__init__()
        self.strip, self.on = strip, True

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        own = OPERATIONS.get(func) if self.on else None
        if own is None:
            return func(*args, **(kwargs or {}))
        return own(self.strip, *args, **(kwargs or {}))

    @contextmanager
    def off(self) -> Iterator[None]:
        """Work on whole frames inside `with`."""
        self.on = False
        try:
            yield
        finally:
            self.on = True


def _pad(
    strip: Strip, x: torch.Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None
) -> torch.Tensor:
    """`F.pad` whose rows come from the neighbours; only at the edges of the frame they are made."""
    if len(pad) < 4 or not (pad[2] or pad[3]):
        return F.pad(x, pad, mode, value)  # type: ignore[arg-type]
    above, below = strip.rows(x, x.ndim - 2, pad[2], pad[3])
    x = torch.cat([each for each in (above, x, below) if each is not None], dim=-2)
    edges = 0 if above is not None else pad[2], 0 if below is not None else pad[3]
    return F.pad(x, [*pad[:2], *edges, *pad[4:]], mode, value)


def _convolution(convolve: Callable[..., torch.Tensor], dimensions: int) -> Callable[..., torch.Tensor]:
    def made(
        strip: Strip,
        input: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> torch.Tensor:
        around = [padding] * dimensions if isinstance(padding, int) else list(padding)
        rows = around[-2]
        if rows:
            around[-2] = 0
            input = _pad(strip, input, [0, 0, rows, rows])
        return convolve(input, weight, bias, stride, tuple(around), dilation, groups)

    return made


def _group_norm(
    strip: Strip,
    input: torch.Tensor,
    num_groups: int,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> torch.Tensor:
    """`F.group_norm` with the mean and variance of all strips."""
    batch, channels = input.shape[:2]
    grouped = input.reshape(batch, num_groups, -1)
    squares = torch.linalg.vector_norm(grouped, dim=-1, dtype=torch.float64).square()
    sums = strip.total(torch.stack([grouped.sum(-1, dtype=torch.float64), squares]))  # [2, B, groups]
    mean, square = sums / strip.whole(grouped.shape[-1])
    scale = (square - mean * mean + eps).rsqrt()
    each = (batch, channels, *[1] * (input.ndim - 2))
    factor, shift = (t.repeat_interleave(channels // num_groups, dim=1).view(each) for t in (scale, -mean * scale))
    if weight is not None:
        own = weight.double().view(1, -1, *each[2:])
        factor, shift = factor * own, shift * own
    if bias is not None:
        shift = shift + bias.double().view(1, -1, *each[2:])
    wide = torch.float64 if input.dtype == torch.float64 else torch.float32
    return torch.addcmul(shift.to(wide), input.to(wide), factor.to(wide)).to(input.dtype)


OPERATIONS: dict[Any, Callable[..., torch.Tensor]] = {
    F.pad: _pad,
    F.conv2d: _convolution(F.conv2d, 2),
    F.conv3d: _convolution(F.conv3d, 3),
    F.group_norm: _group_norm,
}
"""The functions of torch that act on rows, with the functions that replace them."""


def decoded(run: Run, model: Model, latents: torch.Tensor) -> torch.Tensor:
    """Decode latents of `latent_shape`, each process its rows or tiles, into the whole frames [B, F, H, W, 3]."""
    vae, (rows, columns) = model.component("vae"), latents.shape[-2:]
    scale = pixels_of_latent(vae)
    if has_tiles(vae, scale * rows, scale * columns):
        with _tiles(run, vae, "decoder"):
            return model.family.decode(model, latents)
    strip = _strip(run, rows)
    if strip is None:
        return model.family.decode(model, latents)
    with on_strips(strip, vae.decoder, is_rebuilt(vae, "decoder")):
        frames = model.family.decode(model, strip.cut(latents, latents.ndim - 2))
    return strip.gathered(frames, 2)


def encoded(run: Run, model: Model, frames: torch.Tensor) -> torch.Tensor:
    """Encode frames [B, F, H, W, 3], each process its rows or tiles, into the whole latents of `latent_shape`."""
    vae, (_, count, height, width, _) = model.component("vae"), frames.shape
    if has_tiles(vae, height, width):
        with _tiles(run, vae, "encoder"):
            return model.family.encode(model, frames)
    configs = {part: model.config(part) for part in ("vae", "transformer")}
    strip = _strip(run, model.family.latent_shape(Size(width, height, count), 1, configs)[-2])
    if strip is None:
        return model.family.encode(model, frames)
    with on_strips(strip, vae.encoder, is_rebuilt(vae, "encoder")):
        latents = model.family.encode(model, strip.cut(frames, 2))
    return strip.gathered(latents, latents.ndim - 2)


def _tiles(run: Run, vae: Any, part: str) -> AbstractContextManager[None]:
    run.detail(strips=f"off: the tiles are dealt to {run.processes.size} processes")
    return dealt_tiles(run.processes, vae, part)


def _strip(run: Run, rows: int) -> Strip | None:
    """The own strip; None, with the reason, if each process works on whole frames."""
    processes = run.processes
    if rows < processes.size:
        run.detail(strips=f"off, each process does all: {rows} rows of latents are fewer than the processes")
        return None
    run.detail(strips=f"{processes.size} strips of rows")
    return Strip(processes, members(processes, "all"), parts_of(rows, processes.size))


@contextmanager
def on_strips(strip: Strip, part: Any, rebuilt: bool) -> Iterator[None]:
    """Let a decoder or encoder work on a strip inside `with`.

    Args:
        strip: The own rows.
        part: diffusers' module; its `mid_block` is computed on all rows.
        rebuilt: Whether sgd's own decoder or encoder stands in for it.
    """
    if rebuilt:
        with in_strips(strip):
            yield
        return
    rows = Rows(strip)
    middle: Any = part.mid_block
    own: Callable[..., torch.Tensor] = middle.forward

    def forward(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        with rows.off():
            return strip.cut(own(strip.gathered(x, -2), *args, **kwargs), -2).contiguous()

    with replaced(middle, "forward", forward), rows:
        yield
