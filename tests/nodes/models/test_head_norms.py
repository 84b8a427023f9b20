"""Scales of queries and keys from the weights of their norms: never too small, as good as measured ones, and told.

Attention is computed from its formula in float64, so that only the numbers in e4m3 make a difference.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.models import attention_dispatch
from helpers.ranks import on_ranks
from helpers.transformer_cases import CASES, called, relative, shaken
from sgd.graph.contract.processes import Mesh
from sgd.nodes.families import by_name
from sgd.nodes.models.attention import backend_table, backend_timing, backends
from sgd.nodes.models.attention.centred_e4m3 import CentredHeads, centred_e4m3
from sgd.nodes.models.memory.component_views import view
from sgd.nodes.models.rebuilt.rebuilding import rebuild
from sgd.nodes.models.row_kernels import head_norms, rows
from sgd.nodes.models.row_kernels.head_norms import HeadNorms
from sgd.nodes.parallel.cut_blocks import CutSequence, CutTransformer
from sgd.nodes.parallel.sequence_group import sequence_group

HEADS, WIDTH = 3, 64
FIRST, START, TOKENS = 40, 20, 256
"""Rows of the first group, the first row that is rotated, and all rows."""

SEEDS = 12
Operands = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def random(*shape: int, seed: int, device: str = "cpu") -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device)


def norms_of(across: bool, outlier: float, seed: int = 0, device: str = "cpu") -> HeadNorms:
    """Weights of two groups, one of them larger by `outlier` than all others."""
    weights = 1 + 0.3 * random(2, 2, HEADS * WIDTH if across else WIDTH, seed=seed)
    weights[0, 1, 5] *= outlier
    weights[1, 0, 8] *= -outlier
    query, key = weights.to(device, torch.bfloat16)
    return HeadNorms(query, key)


def normed(qkv: torch.Tensor, norms: HeadNorms, across: bool) -> Operands:
    """Queries, keys and values after the norms. Some rows turn by an eighth of a circle, some not, others at random."""
    angles = random(1, TOKENS - START, WIDTH // 2, seed=9)
    angles[:, -100:-50], angles[:, -50:] = torch.pi / 4, 0
    turn = angles.cos().to(qkv.device), angles.sin().to(qkv.device)
    made = qkv.clone()
    rows.query_key_(made, norms.query, norms.key, *turn, eps=1e-6, across=across, first=FIRST, start=START)
    query, key, value = made.unbind(2)
    return query, key, value


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("outlier", [1.0, 30.0])
def test_no_element_exceeds_a_scale_of_the_norms(dtype: torch.dtype, across: bool, outlier: float) -> None:
    """Some rows have all their length in one element or in one pair, which is the most that a norm can give."""
    norms = norms_of(across, outlier)
    qkv = random(1, TOKENS, 3, HEADS, WIDTH, seed=1) * random(1, TOKENS, 1, 1, 1, seed=2).exp() ** 4
    heaviest = [int(weights.abs().amax(0).argmax()) for weights in (norms.query, norms.key)]
    for part, at in enumerate(heaviest):
        head, column = divmod(at, WIDTH) if across else (slice(None), at)
        alone, pair = torch.arange(0, TOKENS, 4), torch.arange(1, TOKENS, 4)
        for some in (alone, pair):
            qkv[:, some, part] = 0
        qkv[:, alone, part, head, column] = 1e3
        qkv[:, pair, part, head, column] = 1e3
        qkv[:, pair, part, head, column ^ 1] = -1e3
    for tensor, scale in zip(normed(qkv.to(dtype), norms, across), norms.e4m3_scales, strict=False):
        share = float(tensor.float().abs().max() / (448 * scale))
        assert 0.9 < share <= 1
        whole = scale.expand(1, HEADS)
        assert rows_are_finite(tensor, whole)


def rows_are_finite(tensor: torch.Tensor, scales: torch.Tensor) -> bool:
    """Numbers above the range of e4m3 become nan."""
    from sgd.nodes.models.row_kernels.heads import quantized_heads

    return bool(quantized_heads(tensor, scales, None).float().isfinite().all())


def formula(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
    query, key, value = (tensor.double().transpose(1, 2) for tensor in (query, key, value))
    return ((query @ key.transpose(2, 3) * scale).softmax(-1) @ value).transpose(1, 2)


def of_numbers(made: CentredHeads, scale: float) -> torch.Tensor:
    """The formula with what the numbers in e4m3 stand for."""
    numbers = (made.query, made.query_scales), (made.key, made.key_scales), (made.value, made.value_scales)
    query, key, value = (each.double() * scales[:, None, :, None] for each, scales in numbers)
    return formula(query, key, value, scale) + made.means[:, None]


SHARP = 1.0
"""A factor on scores that gives most of the attention to one key; 1 / 8 is the usual one for heads of 64."""


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("outlier", [1.0, 10.0])
@pytest.mark.parametrize("scale", [WIDTH**-0.5, SHARP])
def test_the_error_is_that_of_measured_scales(across: bool, outlier: float, scale: float) -> None:
    """Over several weights and inputs together: the error of one differs by luck, most if one element is large."""
    errors = torch.zeros(2, dtype=torch.float64)
    for seed in range(SEEDS):
        norms = norms_of(across, outlier, seed)
        given = normed(random(1, TOKENS, 3, HEADS, WIDTH, seed=100 + seed).bfloat16(), norms, across)
        wanted = formula(*given, scale)
        if scale == SHARP:
            scores = torch.einsum("bshd,bthd->bhst", given[0].double(), given[1].double()) * scale
            assert float(scores.softmax(-1).amax(-1).mean()) > 0.7
        made = [of_numbers(centred_e4m3(*given, each), scale) for each in (None, norms)]
        errors += torch.tensor([relative(each, wanted) for each in made], dtype=torch.float64).square()
    measured, known = errors.sqrt().tolist()
    assert 0.9 * measured <= known <= 1.1 * measured


def test_scales_are_one_tensor_for_all_calls() -> None:
    """They are computed once for the weights, and given to each call without a copy."""
    norms = norms_of(False, 1.0)
    query, key, value = random(3, 2, 8, HEADS, WIDTH, seed=3).bfloat16()
    made = [centred_e4m3(query, key, value, norms) for _ in range(2)]
    assert made[0].query_scales.shape == made[0].key_scales.shape == (2, HEADS)
    assert made[0].query_scales.data_ptr() == made[1].query_scales.data_ptr() == norms.e4m3_scales[0].data_ptr()


class Watch:
    """Stands before the dispatch of diffusers, as rebuilt blocks and the exchange call it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.inner, self.calls, self.least = attention_dispatch.dispatch_attention_fn, 0, 1.0
        monkeypatch.setattr(attention_dispatch, "dispatch_attention_fn", self)

    def __call__(self, query: torch.Tensor, key: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        norms = head_norms.known()
        assert norms is not None
        for tensor, scale in zip((query, key), norms.e4m3_scales, strict=True):
            share = float(tensor.abs().max() / (448 * scale))
            assert share <= 1
            self.least = min(self.least, share)
        self.calls += 1
        made: torch.Tensor = self.inner(query, key, *args, **kwargs)
        return made


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_rebuilt_blocks_tell_the_norms_of_their_queries_and_keys(case: str, rows: int, monkeypatch: Any) -> None:
    build, inputs, blocks = CASES[case]
    module = shaken(build())
    rebuilt = view(module)
    rebuild(rebuilt, join=False)
    watch = Watch(monkeypatch)
    made = called(rebuilt, inputs(rows))
    assert head_norms.known() is None
    if case == "wan with any timesteps":
        assert watch.calls == 0, "blocks of diffusers tell nothing"
        return
    assert watch.calls >= blocks
    assert watch.least > 0.2, "the bounds are not far from the values"
    monkeypatch.undo()
    assert torch.equal(called(rebuilt, inputs(rows)), made)


def test_several_processes_keep_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention is dispatched twice, to the exchange and then to the chosen backend."""
    views = {}
    for case in ("flux", "hunyuan-video", "qwen-image", "wan"):
        views[case] = view(shaken(CASES[case][0]()))
        rebuild(views[case], join=False)
    watch = Watch(monkeypatch)

    def work(join: Any) -> dict[str, int]:
        counts = {}
        for mesh in (Mesh(ulysses=2), Mesh(ring=2)):
            sequence = CutSequence(sequence_group(join(mesh)))
            for case, module in views.items():
                before = watch.calls
                called(CutTransformer(module, by_name(case), sequence), CASES[case][1](1))
                counts[f"{case}, {mesh}"] = watch.calls - before
        return counts

    for counts in on_ranks(2, work):
        for name, count in counts.items():
            blocks = CASES[name.partition(",")[0]][2]
            assert count >= 2 * blocks, name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("scale", [WIDTH**-0.5, SHARP])
@pytest.mark.parametrize("outlier", [1.0, 10.0])
def test_the_kernel_with_known_norms_errs_as_with_measured_scales(scale: float, outlier: float) -> None:
    reason = backends.machine_problem(backend_table.FLASH_3_FP8)
    if reason is not None:
        pytest.skip(reason.message)
    from sgd.nodes.models.attention.kernels import flash_3_fp8

    errors = torch.zeros(2, dtype=torch.float64)
    for seed in range(SEEDS):
        norms = norms_of(False, outlier, seed, "cuda")
        qkv = random(1, TOKENS, 3, HEADS, WIDTH, seed=100 + seed, device="cuda").bfloat16()
        query, key, value = normed(qkv, norms, False)
        wanted = formula(query, key, value, scale)
        measured = flash_3_fp8(query, key, value, scale, False)
        with head_norms.knowing(norms):
            known = flash_3_fp8(query, key, value, scale, False)
            if scale != SHARP:
                assert torch.equal(backend_timing.attend("_sgd_flash_3_fp8", query, key, value), known)
        assert not torch.equal(known, measured)
        squares = [relative(each, wanted) ** 2 for each in (measured, known)]
        errors += torch.tensor(squares, dtype=torch.float64)
    assert errors[1] <= 1.1**2 * errors[0]
