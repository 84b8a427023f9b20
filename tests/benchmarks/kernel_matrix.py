"""Compile every Triton kernel for each kind of card at the full widths of all models, without a card.

    python tests/benchmarks/kernel_matrix.py [--cards 80 120]

For each card it prints the calls that failed, the kernels that need more registers than a thread has, and the most
shared memory. It takes a minute for a card. Nothing is launched, so it tells nothing about results or speed.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1]))

import pytest
import torch
from helpers.compiled_kernels import CompiledKernel, compiling, distinct
from helpers.full_size_calls import VAES, full_size_calls
from helpers.missing_cards import CARDS, Card, through_kernels

DTYPES = torch.float16, torch.bfloat16, torch.float32


def problems(card: Card) -> Iterator[str]:
    """Compile for one card. Yields a line for each fault; prints what it found."""
    start, kernels = time.monotonic(), []
    with pytest.MonkeyPatch.context() as monkeypatch, compiling(card.capability) as made:
        through_kernels(monkeypatch, card)
        for name, call in full_size_calls(dict.fromkeys(VAES, DTYPES)):
            try:
                call()
            except Exception as error:
                yield f"{card.name}: {name}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
    kernels = distinct(made)
    for kernel in kernels:
        if (reason := card.refuses(kernel.shared, kernel.columns)) is not None:
            yield f"{card.name}: {kernel.name} {dict(kernel.constants)}: {reason}"
        if (stack := stack_bytes(kernel)) > 0:
            first = next(iter(kernel.types.values()))
            print(f"  {kernel.name} {first} {dict(kernel.constants)}, {kernel.warps} warps: {stack} bytes of stack")
    largest = max(kernel.shared for kernel in kernels) / 1024
    names = sorted({kernel.name for kernel in kernels})
    print(f"{card.name} ({card.major}.{card.minor}): {len(kernels)} kernels of {len(names)} functions in")
    print(f"  {time.monotonic() - start:.0f} s; at most {largest:.1f} KiB of shared memory; {', '.join(names)}")


def stack_bytes(kernel: CompiledKernel) -> int:
    """Bytes of each thread's stack, which stands in for missing registers."""
    import triton

    program = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.parts["cubin"])
        file.flush()
        command = [program, "--dump-resource-usage", file.name]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"STACK:(\d+)", told)
    assert found is not None, told
    return int(found[1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cards", type=int, nargs="*", help="compute capabilities without the dot; all if not given")
    wanted = parser.parse_args().cards
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict("os.environ", {"TRITON_CACHE_DIR": folder}):
        found = [line for card in CARDS if not wanted or card.capability in wanted for line in problems(card)]
    print("\n".join(found) or "no problem")
    sys.exit(bool(found))
