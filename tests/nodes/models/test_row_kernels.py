"""Row kernels and products: the torch twins against torch's and diffusers' functions, and Triton against the twins.

Triton runs in its interpreter, in a process of its own, where the package is installed; on a GPU it runs as kernels.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.embeddings import apply_rotary_emb
from helpers.interpreted import needs_triton
from sgd.nodes.models.row_kernels import products, row_twins
from torch.nn import Linear
from torch.nn import functional as F

WIDTH = 48
CLOSE = 1e-6

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def random(*shape: int, seed: int = 0, **options: Any) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(**options)


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def by_rows(vector: torch.Tensor, first: int, rows: int) -> torch.Tensor:
    """A vector [B, 2, D] for each row, written out."""
    return torch.stack([torch.stack([v[int(row >= first)] for row in range(rows)]) for v in vector])


def test_norm_is_layer_norm_with_modulation_by_groups() -> None:
    x, scale, shift = random(2, 7, WIDTH), random(2, 2, WIDTH, seed=1), random(2, 2, WIDTH, seed=2)
    found = row_twins.norm(x, scale, shift, kind="layer", eps=1e-6, plus_one=True, first=3)
    wanted = F.layer_norm(x, [WIDTH], eps=1e-6) * (1 + by_rows(scale, 3, 7)) + by_rows(shift, 3, 7)
    assert relative(found, wanted) < CLOSE


def test_norm_is_rms_norm_with_weights() -> None:
    x, weight = random(2, 7, WIDTH), random(WIDTH, seed=1)
    found = row_twins.norm(x, weight[None, None], None, kind="rms", eps=1e-5, plus_one=False)
    assert relative(found, F.rms_norm(x, [WIDTH], weight, eps=1e-5)) < CLOSE


def test_add_norm_gives_the_sum_and_its_norm() -> None:
    x, y, gate = random(1, 5, WIDTH), random(1, 5, WIDTH, seed=1), random(1, 1, WIDTH, seed=2)
    scale = random(1, 1, WIDTH, seed=3)
    total, normed = row_twins.add_norm(x, y, gate, scale, None, kind="layer", eps=1e-6, plus_one=True)
    assert relative(total, x + gate * y) < CLOSE
    assert relative(normed, F.layer_norm(x + gate * y, [WIDTH], eps=1e-6) * (1 + scale)) < CLOSE


def test_add_can_normalise_what_it_adds() -> None:
    x, y, weight = random(1, 5, WIDTH), random(1, 5, WIDTH, seed=1), random(1, 1, WIDTH, seed=2)
    wanted = x + F.rms_norm(y, [WIDTH], weight[0, 0], eps=1e-5)
    assert relative(row_twins.add(x, y, weight, y_eps=1e-5), wanted) < CLOSE


@pytest.mark.parametrize("across", [False, True])
def test_query_key_is_rms_norm_and_diffusers_rotary_embedding(across: bool) -> None:
    qkv = random(2, 6, 3, 4, 16)
    weight = random(64 if across else 16, seed=1)
    angles = random(6, 8, seed=2).repeat_interleave(2, dim=1)  # as in diffusers: each angle twice
    cos, sin = angles.cos(), angles.sin()
    made = qkv.clone()
    tables = cos[None, :, ::2], sin[None, :, ::2]
    row_twins.query_key_(made, weight[None], weight[None], *tables, eps=1e-6, across=across)
    for part in (0, 1):
        given = qkv[:, :, part]
        normed = F.rms_norm(given.flatten(2), [64], weight, 1e-6) if across else F.rms_norm(given, [16], weight, 1e-6)
        wanted = apply_rotary_emb(normed.view_as(given), (cos, sin), sequence_dim=1)
        assert relative(made[:, :, part], wanted) < CLOSE
    assert torch.equal(made[:, :, 2], qkv[:, :, 2])


def test_query_key_rotates_the_rows_that_have_positions_and_weighs_by_group() -> None:
    qkv, weight = random(1, 6, 3, 2, 8), random(2, 8, seed=1)
    angles = random(1, 4, 4, seed=2)
    made = qkv.clone()
    row_twins.query_key_(made, weight, weight, angles.cos(), angles.sin(), eps=1e-6, across=False, first=2, start=2)
    plain = qkv.clone()
    row_twins.query_key_(plain, weight[:1], weight[:1], None, None, eps=1e-6, across=False)
    assert relative(made[:, :2], plain[:, :2]) < CLOSE
    assert relative(made[:, 2:, 0].norm(), (F.rms_norm(qkv[:, 2:, 0], [8], weight[1], 1e-6)).norm()) < CLOSE
    assert relative(made[:, 2:, 0], plain[:, 2:, 0]) > 0.1


def test_silu_product() -> None:
    pairs = random(3, 2 * WIDTH)
    wanted = F.silu(pairs[:, :WIDTH]) * pairs[:, WIDTH:]
    assert relative(row_twins.silu_product(pairs), wanted) < CLOSE


def layers(count: int, bias: bool = True) -> list[Linear]:
    torch.manual_seed(0)
    return [Linear(8, 4 + number, bias=bias).requires_grad_(False) for number in range(count)]


def test_joined_layers_keep_their_weights_as_views_of_one_buffer() -> None:
    three, x = layers(3), random(2, 5, 8)
    wanted = [layer(x) for layer in three]
    assert products.joined(three) is None
    products.join(three)
    whole = products.joined(three)
    assert whole is not None
    assert whole[0].data_ptr() == three[0].weight.data_ptr()
    assert len({layer.weight.untyped_storage().data_ptr() for layer in three}) == 1
    assert all(torch.equal(layer(x), each) for layer, each in zip(three, wanted, strict=True))
    assert relative(products.linear(x, *three), torch.cat(wanted, dim=-1)) < CLOSE


def test_layers_that_moved_apart_are_computed_one_by_one() -> None:
    three, x = layers(3), random(2, 5, 8)
    products.join(three)
    wanted = torch.cat([layer(x) for layer in three], dim=-1)
    three[1].weight.data = three[1].weight.data.clone()  # as offloading does
    assert products.joined(three) is None
    assert relative(products.linear(x, *three), wanted) < CLOSE


def test_layers_without_bias_and_layers_that_differ() -> None:
    two, x = layers(2, bias=False), random(1, 5, 8)
    products.join(two)
    assert products.joined(two) is not None
    assert relative(products.linear(x, *two), torch.cat([layer(x) for layer in two], dim=-1)) < CLOSE
    mixed = [layers(1)[0], layers(1, bias=False)[0]]
    before = [layer.weight.data_ptr() for layer in mixed]
    products.join(mixed)
    assert [layer.weight.data_ptr() for layer in mixed] == before


def test_parts_of_a_sequence_go_through_their_own_layers() -> None:
    a, b = (Linear(8, 6) for _ in range(2))
    x = random(2, 5, 8)
    parts = [products.Part(0, 2, (a,)), products.Part(2, 5, (b,))]
    wanted = F.gelu(torch.cat([a(x[:, :2]), b(x[:, 2:])], dim=1), approximate="tanh")
    with torch.no_grad():
        assert relative(products.through(x, parts, gelu=True), wanted) < CLOSE


CALLS = """
import torch
from sgd.nodes.models.row_kernels import head_triton, head_twins, quantized_rows, quantized_triton
from sgd.nodes.models.row_kernels import row_triton, row_twins

def random(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=generator, device=device).to(dtype)

def relative(found, wanted):
    return float((found.float() - wanted.float()).norm() / wanted.float().norm())

for dtype, bound in bounds.items():
    generator = torch.Generator(device).manual_seed(0)
    for batch, rows, width in ((2, 7, 48), (1, 5, 3072)):
        whole = random(batch, rows + 2, width, dtype=dtype)
        x, y = whole[:, 2:], random(batch, rows, width, dtype=dtype)
        vectors = random(batch, 2, 6, width, dtype=dtype).unbind(2)
        one = random(1, 1, width)
        for kind in ("layer", "rms"):
            for scale, shift, plus_one in ((vectors[0], vectors[1], True), (one, None, False)):
                options = {"kind": kind, "eps": 1e-6, "plus_one": plus_one, "first": 3}
                found, wanted = (m.norm(x, scale, shift, **options) for m in (row_triton, row_twins))
                assert relative(found, wanted) < bound, ("norm", dtype, kind)
                for gate, y_eps in ((vectors[2], None), (None, None), (vectors[2], 1e-5)):
                    given = (x, y, gate, scale, shift)
                    found, wanted = (m.add_norm(*given, y_eps=y_eps, **options) for m in (row_triton, row_twins))
                    assert all(relative(a, b) < bound for a, b in zip(found, wanted)), ("add_norm", dtype, kind)
        own = y.clone()
        assert row_triton.add(own, y, vectors[3], first=3, in_place=True) is own
        assert relative(own, row_twins.add(y, y, vectors[3], first=3)) < bound
        kept = y.clone()
        assert relative(row_triton.add(y, y, vectors[3], first=3), own) < bound
        assert torch.equal(y, kept)
    for across in (False, True):
        for groups, tables in ((1, 1), (2, 1), (1, 2)):
            qkv = random(2, 7, 3, 3, 16, dtype=dtype)
            weights = [random(groups, 48 if across else 16, dtype=dtype) for _ in range(2)]
            angles = random(tables, 4, 8)
            for cos, sin in ((angles.cos(), angles.sin()), (None, None)):
                made = [qkv.clone(), qkv.clone()]
                for each, module in zip(made, (row_triton, row_twins)):
                    module.query_key_(each, *weights, cos, sin, eps=1e-6, across=across, first=3, start=2)
                assert relative(*made) < bound, ("query_key", dtype, across, groups)
                assert torch.equal(made[0][:, :, 2], qkv[:, :, 2])
    # In 8 bits: the scales, and the share of equal numbers. The interpreter rounds 7.9 / 8 of a power of two down to a
    # half of it, since its conversion does not carry into the exponent.
    def near(found, wanted):
        equal = (found.values.float() == wanted.values.float()).float().mean()
        return float(equal) > least and relative(found.scales, wanted.scales) < bound

    for a, b in ((x, None), (None, y), (x, y)):
        for gelu in (False, True):
            found = quantized_triton.quantized_side_by_side(a, b, gelu=gelu)
            wanted = quantized_rows.quantized_side_by_side(a, b, "fp8", gelu=gelu)
            assert near(found, wanted), ("side by side", dtype, gelu)
    options = {"kind": "layer", "eps": 1e-6, "plus_one": True, "first": 3, "format": "fp8"}
    found, wanted = (m.add_norm(x, y, None, one, None, **options) for m in (row_triton, row_twins))
    assert relative(found[0], wanted[0]) < bound and near(found[1], wanted[1]), ("norm in 8 bits", dtype)
    for tokens, count, width in ((5, 3, 32), (300, 3, 24), (129, 2, 128)):
        joint = random(2, tokens, 3, count, width, dtype=dtype) + 3 * random(count, width, dtype=dtype)
        for heads in (joint[:, :, 2], joint.transpose(1, 3)[:, :, 1].transpose(1, 2)):
            means, scales = head_triton.centre_and_scales(heads)
            wanted = head_twins.centre_and_scales(heads)
            assert relative(means, wanted[0]) < 1e-5 and relative(scales, wanted[1]) < 1e-5, ("centre", dtype)
            one = torch.tensor(0.02, device=device).expand(2, count)
            for given in ((scales, means), (scales, None), (one, None)):
                found, wanted = (m.quantized_heads(heads, *given) for m in (head_triton, head_twins))
                assert found.is_contiguous()
                assert float((found.float() == wanted.float()).float().mean()) > least, ("heads", dtype)
        found, wanted = (m.add_means_(joint[:, :, 0].clone(), means) for m in (head_triton, head_twins))
        assert relative(found, wanted) < bound, ("add means", dtype)
        inside, before = joint.clone(), joint.clone()
        head_triton.add_means_(inside[:, :, 1], means)
        assert torch.equal(inside[:, :, ::2], before[:, :, ::2]), "the rows beside stay"
        assert relative(inside[:, :, 1], before[:, :, 1].float() + means[:, None]) < 2 * bound, ("in a buffer", dtype)
    pairs = random(5, 6000, dtype=dtype)
    assert relative(row_triton.silu_product(pairs), row_twins.silu_product(pairs)) < bound
print("all agree")
"""


@needs_triton
def test_triton_agrees_with_the_twins_in_the_interpreter(tmp_path: Path) -> None:
    # bfloat16 is left out: the interpreter cuts it off instead of rounding.
    head = "import torch\ndevice, bounds = 'cpu', {torch.float32: 1e-6, torch.float16: 1e-3}\nleast = 0.9\n"
    script = tmp_path / "interpreted.py"
    script.write_text(head + CALLS)
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "all agree", done.stderr[-2000:]


@needs_triton
@needs_gpu
def test_triton_agrees_with_the_twins_on_the_gpu(tmp_path: Path) -> None:
    kinds = "{torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 5e-3}"
    script = tmp_path / "compiled.py"
    script.write_text(f"import torch\ndevice, bounds, least = 'cuda', {kinds}, 0.98\n" + CALLS)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert done.stdout.strip() == "all agree", done.stderr[-2000:]


@needs_gpu
def test_products_on_the_gpu_agree_with_float32() -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        pair = [Linear(256, 512).to("cuda", torch.bfloat16) for _ in range(2)]
        products.join(pair)
        x = torch.randn(2, 40, 256, device="cuda", dtype=torch.bfloat16)
        for gelu in (False, True):
            wanted = torch.cat([F.linear(x.float(), each.weight.float(), each.bias.float()) for each in pair], dim=-1)
            wanted = F.gelu(wanted, approximate="tanh") if gelu else wanted
            assert relative(products.linear(x, *pair, gelu=gelu), wanted) < 5e-3
        parts = [products.Part(0, 8, (pair[0],)), products.Part(8, 40, (pair[1],))]
        wanted = torch.cat([pair[0](x[:, :8]), pair[1](x[:, 8:])], dim=1)
        assert relative(products.through(x, parts), wanted) < 5e-3
        wide = Linear(768, 256).to("cuda", torch.bfloat16)
        b = torch.randn(2, 40, 512, device="cuda", dtype=torch.bfloat16)
        assert relative(products.linear_of_two(x, b, wide), wide(torch.cat([x, b], dim=-1))) < 5e-3
