"""Wan's convolutions on a GPU, checked and timed: `python tests/benchmarks/convolutions.py [--dtype bfloat16]`.

The script compares cuDNN's convolution with the Triton kernel over frames with margins, for several tiles. The sizes
are those of a decode at 832×480, four latent frames at a time. Errors are those of the last two frames, against
float32. Times are the median of five calls after a warm-up. If a tile does not fit the card, the table has the reason.
After `--seconds`, no further tile is tried. `--tiny` tries the script on a CPU, with one tile for each size in Triton's
interpreter.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import torch.nn.functional as F
from benchmarks.machine import calls, relative, state, this_machine
from sgd.nodes.models.decoders.dense_convolution import DenseWeight, convolve
from sgd.nodes.models.decoders.margin_convolution import laid_out
from sgd.nodes.models.decoders.margin_tiles import TILES, Tile
from torch import Tensor

REPEATS = 5

SIZES = {
    # frames, rows and columns of the result
    (96, 96): [(16, 480, 832)],
    (192, 192): [(16, 240, 416)],
    (192, 384): [(8, 120, 208)],
    (384, 384): [(8, 120, 208), (4, 60, 104)],
}

TRIED = {
    (96, 96): [
        Tile(256, 128, 0, 32, 8, 8),
        Tile(256, 128, 0, 64, 4, 8),
        Tile(128, 64, 32, 64, 3, 4),
        Tile(128, 64, 32, 32, 6, 4),
        Tile(128, 128, 0, 64, 3, 4),
        Tile(256, 64, 32, 32, 8, 8),
        Tile(256, 64, 32, 64, 3, 8),
    ],
    (192, 192): [
        Tile(128, 128, 64, 64, 4, 8),
        Tile(128, 128, 64, 64, 2, 4),
        Tile(128, 128, 64, 32, 5, 4),
        Tile(256, 128, 64, 32, 6, 8),
        Tile(256, 64, 0, 64, 4, 8),
    ],
    (192, 384): [
        Tile(256, 128, 0, 64, 4, 8),
        Tile(128, 256, 0, 64, 4, 8),
        Tile(256, 128, 64, 64, 3, 8),
        Tile(128, 128, 0, 64, 3, 4),
    ],
    (384, 384): [
        Tile(256, 128, 0, 64, 3, 8),
        Tile(128, 256, 0, 64, 4, 8),
        Tile(256, 128, 64, 64, 3, 8),
        Tile(128, 128, 0, 64, 3, 4),
    ],
}
"""Tiles beside the one in `TILES`. Those of four warps leave room for two programs on a multiprocessor."""


class Line(NamedTuple):
    """A line of the table: the way, and seconds with the relative error, or the reason why there are none."""

    way: str
    seconds: float
    error: float
    reason: str = ""


class Given(NamedTuple):
    """Inputs of a convolution: frames with margins and without, weights, and the last two frames in float32."""

    padded: Tensor
    dense: Tensor
    weight: Tensor
    wanted: Tensor


def given(channels: tuple[int, int], size: tuple[int, int, int], dtype: torch.dtype, device: str) -> Given:
    """Random frames and a weight that keeps their size."""
    own, made = channels
    frames, rows, columns = size
    generator = torch.Generator(device).manual_seed(0)
    dense = torch.randn(frames + 2, rows, columns, own, generator=generator, device=device).to(dtype)
    weight = torch.randn(made, own, 3, 3, 3, generator=generator, device=device) / (27 * own) ** 0.5
    weight = weight.to(dtype).contiguous(memory_format=torch.channels_last_3d)
    last = dense[-4:].float().permute(3, 0, 1, 2)[None]
    wanted = F.conv3d(last, weight.float(), padding=(0, 1, 1))[0].permute(1, 2, 3, 0)[-2:]
    return Given(F.pad(dense, (0, 0, 1, 1, 1, 1)), dense, weight, wanted)


def line(way: str, call: Callable[[], Tensor], wanted: Tensor, device: str) -> Line:
    """Check and time one way."""
    try:
        error = relative(call()[-2:], wanted)
        return Line(way, statistics.median(calls(call, device, REPEATS)[0]), error)
    except Exception as reason:
        return Line(way, 0.0, 0.0, " ".join(str(reason).split())[:80] or type(reason).__name__)


def ways(inputs: Given, channels: tuple[int, int]) -> list[tuple[str, Callable[[], Tensor]]]:
    """cuDNN as it computes without the kernel, cuDNN over frames with margins, and the kernel with each tile."""
    from sgd.nodes.models.decoders import margin_convolution_kernels as kernels

    padded, dense, weight, _ = inputs
    bias = torch.zeros(len(weight), device=weight.device)

    def with_tile(tile: Tile) -> Callable[[], Tensor]:
        before = TILES[channels]
        TILES[channels] = tile
        rows = laid_out(DenseWeight(weight, bias)).rows
        TILES[channels] = before
        assert rows is not None
        return lambda: kernels.convolve(padded, rows, tile)

    found = [("cuDNN", lambda: convolve(dense, weight, 1)), ("cuDNN, with margins", lambda: convolve(padded, weight))]
    tiles = [TILES[channels], *(tile for tile in TRIED[channels] if tile != TILES[channels])]
    return found + [
        (f"{tuple(tile)}{'' if number else ', in use'}", with_tile(tile)) for number, tile in enumerate(tiles)
    ]


def shown(channels: tuple[int, int], size: tuple[int, int, int], found: Line) -> str:
    """A row of the table, in Markdown."""
    name = f"| {channels[0]} to {channels[1]} | {'×'.join(map(str, size))} | {found.way} |"
    if found.reason:
        return f"{name} {found.reason} | | |"
    work = 2 * 27 * channels[0] * channels[1] * size[0] * size[1] * size[2]
    return f"{name} {1e3 * found.seconds:.3f} | {work / found.seconds / 1e12:.0f} | {found.error:.1e} |"


def main() -> None:
    """Print the table, and the fastest tiles."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dtype", choices=["float16", "bfloat16"], default="float16")
    parser.add_argument("--seconds", type=float, default=50.0)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    device = "cpu" if options.tiny else "cuda"
    if options.tiny:
        os.environ["TRITON_INTERPRET"] = "1"
    else:
        torch.backends.cudnn.allow_tf32 = False
    began = time.perf_counter()
    print(this_machine(device).text(), state(), "", sep="\n")
    print("| channels | frames | way, or tile | ms | TFLOP/s | error |\n| --- | --- | --- | --- | --- | --- |")
    fastest: dict[str, str] = {}
    for channels, sizes in SIZES.items():
        for size in [(2, 3, 4)] if options.tiny else sizes:
            inputs = given(channels, size, getattr(torch, options.dtype), device)
            found: list[Line] = []
            for number, (way, call) in enumerate(ways(inputs, channels)):
                if number > 2 and (options.tiny or time.perf_counter() - began > options.seconds):
                    break
                found.append(line(way, call, inputs.wanted, device))
                print(shown(channels, size, found[-1]), flush=True)
            ran = [each for each in found if not each.reason]
            fastest[f"{channels} {size}"] = min(ran, key=lambda each: each.seconds).way
    print("", *(f"{name}: {way}" for name, way in fastest.items()), state(), sep="\n")
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
