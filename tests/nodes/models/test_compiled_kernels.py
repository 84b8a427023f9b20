"""The Triton kernels, compiled for cards that are not there, at the widths of full-size models.

The calls are those of rebuilt transformers and VAEs. Each kernel is compiled at each width, in the call with the most
options, and for at least three kinds of cards, if so many have it. `tests/benchmarks/kernel_matrix.py` compiles all
calls for all cards.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from helpers.compiled_kernels import Call, CompiledKernel, compiling, noting
from helpers.full_size_calls import full_size_calls
from helpers.missing_cards import CARDS, Card, through_kernels
from sgd.nodes.models import decoders, row_kernels
from sgd.nodes.models.decoders import convolution_choice
from sgd.nodes.models.decoders.margin_tiles import TILES
from sgd.nodes.models.row_kernels import rows

pytestmark = [
    pytest.mark.triton,
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed"),
]

WIDTHS = "D", "C", "K", "M", "N", "STEPS"
"""Names of constants that are widths of models, or made from them: of rows, of heads, and numbers of channels."""

LEAST_CARDS = 2
"""The least number of cards for which a kernel is compiled, if so many have it."""

VAE_DTYPES = {
    "HunyuanVideo": (torch.float16,),
    "Wan 2.1": (torch.bfloat16,),
    "Wan 2.2": (torch.float16,),
}

Kernel = tuple[str, str]
"""Module and name of a function."""

cards = pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)


def able(card: Card) -> tuple[bool, bool]:
    """Whether sgd writes e4m3 on a card, and whether it convolves with its own kernel."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        through_kernels(monkeypatch, card)
        return rows.writes_e4m3(torch.device("cuda")), convolution_choice._able(card.capability)


@pytest.fixture(scope="module")
def launched() -> dict[tuple[bool, bool], dict[Kernel, dict[Any, Call]]]:
    """The calls that cards launch, by `able`: for each kernel and width, the call with the most options."""
    found: dict[tuple[bool, bool], dict[Kernel, dict[Any, Call]]] = {}
    for card in CARDS:
        if able(card) in found:
            continue
        with pytest.MonkeyPatch.context() as monkeypatch, noting() as calls:
            through_kernels(monkeypatch, card)
            for _, work in full_size_calls(VAE_DTYPES):
                work()
        kernels = found.setdefault(able(card), {})
        for call in sorted(calls, key=lambda call: sum(value is True for value in call.constants.values())):
            width = tuple((name, value) for name, value in call.constants.items() if name in WIDTHS)
            kernels.setdefault((call.function.module, call.function.fn.__name__), {})[width] = call
    return found


@pytest.fixture(scope="module")
def dealt(launched) -> dict[Card, list[Call]]:
    """The calls that are compiled for each card: each width goes to the next card, and each kernel to several cards."""
    hands: dict[Card, list[Call]] = {card: [] for card in CARDS}
    kernels = sorted({kernel for each in launched.values() for kernel in each})
    for number, kernel in enumerate(kernels):
        having = [card for card in CARDS if kernel in launched[able(card)]]
        widths = sorted({width for card in having for width in launched[able(card)][kernel]})
        for turn in range(max(len(widths), min(LEAST_CARDS, len(having)))):
            card = having[(number + turn) % len(having)]
            hands[card].append(launched[able(card)][kernel][widths[turn % len(widths)]])
    return hands


@pytest.fixture(scope="module")
def compiled(dealt, tmp_path_factory) -> dict[Card, list[CompiledKernel]]:
    """The kernels of each card."""
    made = {}
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("kernels")))
        for card, calls in dealt.items():
            with compiling(card.capability) as made[card]:
                for call in calls:
                    call.compile()
    return made


@cards
def test_a_card_starts_its_kernels(compiled, card):
    assert len(compiled[card]) > 5
    for kernel in compiled[card]:
        assert card.refuses(kernel.shared, kernel.columns) is None, (kernel.name, kernel.constants)


@cards
def test_sgd_uses_only_kernels_that_a_card_has(launched, compiled, card):
    e4m3, convolves = able(card)
    assert e4m3 == (card.capability >= 89)
    assert any("*fp8e4nv" in kernel.types.values() for kernel in compiled[card]) == e4m3
    names = {name for _, name in launched[e4m3, convolves]}
    assert ("_convolve" in names) == convolves
    needed = [kernel for kernels in compiled.values() for kernel in kernels if kernel.name == "_convolve"]
    assert len(needed) == len(TILES)
    starts = all(card.refuses(kernel.shared, kernel.columns) is None for kernel in needed)
    assert convolves == (starts and card.major >= 9), "TMA came with Hopper"


def functions() -> Iterator[tuple[Kernel, Any]]:
    """All functions of Triton in the packages of kernels."""
    from triton.runtime.jit import JITFunction

    for package in (decoders, row_kernels):
        for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            module = importlib.import_module(found.name)
            for name, value in vars(module).items():
                if isinstance(value, JITFunction) and value.module == found.name:
                    yield (found.name, name), value


def test_no_kernel_is_left_out(compiled):
    everything = dict(functions())
    reached = {(kernel.module, kernel.name) for kernels in compiled.values() for kernel in kernels}
    for kernel in list(reached):  # and the functions that it calls
        called = everything[kernel].fn.__code__.co_names
        reached |= {(kernel[0], name) for name in called if (kernel[0], name) in everything}
    assert set(everything) - reached == set()
