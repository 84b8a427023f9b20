"""The tables of layers, compared with the modules that they describe."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sgd
from sgd.nodes.models.adapters.layer_table import TableBuilder, of_shapes
from sgd.nodes.models.adapters.transformer_tables import TABLES, of_config

CONFIGS = Path(sgd.__file__).parent / "nodes" / "models" / "repository" / "configs"
SHIPPED = sorted(CONFIGS.glob("*/*/transformer*/config.json"))

WAN = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 32, "text_dim": 32}
TINY = {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 16}
DOUBLE = {**TINY, "num_single_layers": 1}
Z_IMAGE = {"n_layers": 1, "n_refiner_layers": 1, "dim": 32, "n_heads": 2, "axes_dims": [8, 4, 4]}

OTHERS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in TABLES),
    ("WanTransformer3DModel", {**WAN, "cross_attn_norm": False, "image_dim": 20, "added_kv_proj_dim": 24}),
    ("WanTransformer3DModel", {**WAN, "image_dim": 20, "added_kv_proj_dim": 24, "pos_embed_seq_len": 10}),
    ("WanTransformer3DModel", {**WAN, "in_channels": 36, "out_channels": 16, "patch_size": [1, 2, 4]}),
    ("FluxTransformer2DModel", {**DOUBLE, "guidance_embeds": True}),
    ("FluxTransformer2DModel", {**DOUBLE, "out_channels": 8, "patch_size": 2}),
    ("HunyuanVideoTransformer3DModel", {**DOUBLE, "guidance_embeds": False, "num_refiner_layers": 1}),
    ("HunyuanVideoTransformer3DModel", {**DOUBLE, "image_condition_type": "token_replace", "mlp_ratio": 3.0}),
    ("HunyuanVideoTransformer3DModel", {**DOUBLE, "image_condition_type": "latent_concat", "in_channels": 33}),
    ("HunyuanVideoTransformer3DModel", {**DOUBLE, "patch_size_t": 2, "qk_norm": None}),
    ("QwenImageTransformer2DModel", {**TINY, "use_additional_t_cond": True, "zero_cond_t": True}),
    ("QwenImageTransformer2DModel", {**TINY, "out_channels": None}),
    ("ZImageTransformer2DModel", {**Z_IMAGE, "siglip_feat_dim": 12, "qk_norm": False}),
    ("ZImageTransformer2DModel", {**Z_IMAGE, "all_patch_size": [2, 4], "all_f_patch_size": [1, 2]}),
    ("ZImageTransformer2DModel", {**Z_IMAGE, "dim": 300, "axes_dims": [50, 50, 50]}),
]


def compare(class_name: str, config: dict[str, Any]) -> None:
    import diffusers
    import torch

    known = {key: value for key, value in config.items() if not key.startswith("_")}
    with torch.device("meta"):
        module = getattr(diffusers, class_name)(**known)
    table = of_config(class_name, config)
    assert table is not None
    assert dict(table.shapes) == {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: "/".join(file.parts[-3:-1]))
def test_a_table_is_the_state_dict_of_a_published_model(file):
    config = json.loads(file.read_text())
    compare(config["_class_name"], config)


@pytest.mark.parametrize(("class_name", "config"), OTHERS)
def test_a_table_is_the_state_dict_of_any_configuration(class_name, config):
    compare(class_name, config)


@pytest.mark.parametrize("class_name", TABLES)
def test_every_name_leads_to_rows_that_the_model_has(class_name):
    table = of_config(class_name, {})
    assert table is not None
    for key in table.shapes:
        layer = key.removesuffix(".weight").removesuffix(".bias")
        [piece] = table.find(layer) or ()
        assert (piece.layer, piece.start, piece.stop) == (layer, 0, table.shapes[table.weight(piece)][0])
    for name, pieces in table.names.items():
        assert "." not in name
        assert table.shape(pieces)[0] == sum(piece.rows for piece in pieces)
        assert all(0 <= piece.start < piece.stop <= table.shapes[table.weight(piece)][0] for piece in pieces)
        assert len({table.shapes[table.weight(piece)][1:] for piece in pieces}) == 1


def test_two_layers_never_have_one_flat_name(monkeypatch):
    """A name that is added a second time stands for the same rows."""
    taken: list[tuple[str, Any, Any]] = []
    alias = TableBuilder.alias

    def watched(self: TableBuilder, name: str, *layers: str) -> None:
        before = dict(self.names)
        alias(self, name, *layers)
        fresh = TableBuilder(
            self.shapes, {key: value for key, value in before.items() if key != name.replace(".", "_")}
        )
        alias(fresh, name, *layers)
        flat = name.replace(".", "_")
        if flat in before and flat in fresh.names and before[flat] != fresh.names[flat]:
            taken.append((name, before[flat], fresh.names[flat]))

    monkeypatch.setattr(TableBuilder, "alias", watched)
    for make in TABLES.values():
        make({"num_layers": 1, "num_single_layers": 1, "image_dim": 8, "added_kv_proj_dim": 8, "siglip_feat_dim": 8})
    assert taken == []


@pytest.mark.parametrize(
    "config",
    [
        {"num_layers": 10**9},
        {"num_layers": "many"},
        {"num_attention_heads": None},
        {"num_layers": [1]},
        {"patch_size": 3},
        {"num_layers": float("nan")},
    ],
)
def test_a_configuration_that_makes_no_sense_has_no_table(config):
    assert of_config("WanTransformer3DModel", config) is None


def test_an_unknown_class_has_no_table():
    assert of_config("UNet2DConditionModel", {}) is None


def test_a_module_without_table_has_the_names_of_its_state_dict():
    table = of_shapes({"a.b.weight": (4, 3), "a.b.bias": (4,), "a.norm.weight": (3,), "table": (1, 6, 4), "scalar": ()})
    assert set(table.names) == {"a_b", "a_norm", "table"}
    assert dict(table.shapes) == {"a.b.weight": (4, 3), "a.b.bias": (4,), "a.norm.weight": (3,), "table": (1, 6, 4)}


def test_tables_and_matching_need_no_torch():
    code = (
        "import sys, sgd.nodes.models.adapters.adapter_match, sgd.nodes.models.adapters.transformer_tables as t;"
        "t.of_config('FluxTransformer2DModel', {});"
        "assert not {'torch', 'diffusers', 'safetensors', 'peft', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
