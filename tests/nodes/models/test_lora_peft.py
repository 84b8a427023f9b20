"""Files that peft saves, and its settings beside them."""

from __future__ import annotations

import re
from copy import deepcopy

import pytest
import torch
from helpers.lora_layouts import Maker, lora
from helpers.merged_weights import compare, merged, module_of, saved
from sgd.nodes.models.transforms.lora_transform import Lora

PEFT = {
    "LoRA": lambda peft, layers: peft.LoraConfig(r=4, lora_alpha=8, target_modules=layers),
    "rslora": lambda peft, layers: peft.LoraConfig(r=4, lora_alpha=8, use_rslora=True, target_modules=layers),
    "patterns": lambda peft, layers: peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=layers, rank_pattern={"to_q": 2}, alpha_pattern={"to_v": 3}
    ),
    "DoRA": lambda peft, layers: peft.LoraConfig(r=4, lora_alpha=8, use_dora=True, target_modules=layers),
    "LoHa": lambda peft, layers: peft.LoHaConfig(r=3, alpha=5, target_modules=layers),
    "LoKr": lambda peft, layers: peft.LoKrConfig(r=2, alpha=5, target_modules=layers),
    "LoKr of whole factors": lambda peft, layers: peft.LoKrConfig(r=64, alpha=16, target_modules=layers),
}


@pytest.mark.parametrize("form", PEFT)
def test_files_that_peft_saves(tmp_path, form):
    """peft keeps alpha and the other settings in a file beside its own, which it merges with them."""
    peft = pytest.importorskip("peft")
    trained = peft.get_peft_model(deepcopy(module_of("wan")), PEFT[form](peft, ["to_q", "to_v", "ffn.net.2"]))
    generator = torch.Generator().manual_seed(0)
    for key, parameter in trained.named_parameters():
        if re.search("lora_|hada_|lokr_", key):
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator) + float("magnitude" in key)
    trained.save_pretrained(tmp_path)
    merged_by_peft = trained.merge_and_unload().state_dict()
    expected = {k: t for k, t in merged_by_peft.items() if not torch.equal(t, module_of("wan").state_dict()[k])}
    assert len(expected) == 10
    file = tmp_path / "adapter_model.safetensors"
    compare(merged("wan", Lora("transformer", file, 1.0)), "wan", expected)


def test_peft_settings_are_for_one_file_only(tmp_path):
    """Beside several files, they belong to the one that has peft's name."""
    state, name = module_of("wan").state_dict(), "blocks.0.attn1.to_q"
    tensors, change = lora(Maker(2), tuple(state[f"{name}.weight"].shape))
    file = {f"{name}.lora_A.weight": tensors["down"], f"{name}.lora_B.weight": tensors["up"]}
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 8}')
    for names in (("mine",), ("mine", "adapter_model")):
        paths = [saved(tmp_path, file, each) for each in names]
        for path in paths:
            factor = 2.0 if len(names) == 1 or path.name == "adapter_model.safetensors" else 1.0
            expected = {f"{name}.weight": change(state[f"{name}.weight"], factor)}
            compare(merged("wan", Lora("transformer", path, 1.0)), "wan", expected)
