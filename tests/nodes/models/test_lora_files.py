"""Damaged adapter files, files of another kind, and settings that cannot be used: each is named by `sgd check`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers.direct import DirectRun, model_of
from helpers.lora_files import GOOD, WIDTH, Q, checked, ones, saved
from helpers.lora_layouts import transformer
from safetensors.torch import save_file
from sgd.graph.contract.errors import NodeError
from sgd.nodes.models.adapters import adapter_header
from sgd.nodes.models.nodes.model_lora import lora
from sgd.nodes.models.transforms.lora_transform import Lora


@pytest.fixture
def model(wan_folder):
    return model_of(wan_folder, "scheduler")


@pytest.mark.parametrize("metadata", ["[" * 10000, "null", "3", "{", '{"lora_alpha": null, "alpha_pattern": null}'])
def test_metadata_of_another_kind_is_left_out(tmp_path, model, metadata):
    save_file(GOOD, tmp_path / "a.safetensors", {"lora_adapter_metadata": metadata, "note": metadata})
    run = DirectRun()
    lora(run, model, str(tmp_path / "a.safetensors")).acquire("transformer", run)
    assert run.warnings == []


@pytest.mark.parametrize(
    "settings",
    [{"lora_alpha": "many"}, {"lora_alpha": float("nan")}, {"alpha_pattern": [1]}, {"alpha_pattern": {"q": {}}}],
)
def test_settings_that_are_no_numbers_are_an_error(tmp_path, wan_folder, settings):
    save_file(GOOD, tmp_path / "a.safetensors", {"lora_adapter_metadata": json.dumps(settings)})
    [problem] = checked(wan_folder, str(tmp_path / "a.safetensors"))
    assert problem.severity == "error"
    assert f"cannot be scaled: its metadata has {next(iter(settings))}" in problem.message


PEFT_FAULTS = {
    "another form": ({"peft_type": "HIRA", "r": 4}, "is of the form HIRA"),
    "other weights": ({"peft_type": "LORA", "init_lora_weights": "pissa_niter_4"}, "is for other weights"),
    "no number": ({"peft_type": "LORA", "lora_alpha": "many"}, "has lora_alpha 'many'"),
    "no rank": ({"peft_type": "LOKR", "r": 0, "alpha": 1}, "has r '0'"),
    "no JSON": (None, "adapter_config.json"),
}


@pytest.mark.parametrize("case", PEFT_FAULTS)
def test_configurations_of_peft_that_cannot_be_used_are_an_error(tmp_path, wan_folder, case):
    config, reason = PEFT_FAULTS[case]
    source = saved(tmp_path, GOOD)
    (tmp_path / "adapter_config.json").write_text("{" if config is None else json.dumps(config))
    [problem] = checked(wan_folder, source)
    assert problem.severity == "error"
    assert reason in problem.message


F32 = b'{"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'

HEADERS = {
    "a list": b"[]",
    "no entry": b'{"a": 1}',
    "a number for a dtype": b'{"a": {"dtype": 5, "shape": [1], "data_offsets": [0, 4]}}',
    "an unknown dtype": b'{"a": {"dtype": "Q8", "shape": [1], "data_offsets": [0, 4]}}',
    "text for a shape": b'{"a": {"dtype": "F32", "shape": "x", "data_offsets": [0, 4]}}',
    "a negative size": b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
    "a broken size": b'{"a": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}}',
    "no shape": b'{"a": {"dtype": "F32", "data_offsets": [0, 4]}}',
    "no place": b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": []}}',
    "another size": b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
    "backwards": b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}',
    "a gap": b'{"a": {"dtype": "U8", "shape": [2], "data_offsets": [2, 4]}}',
    "one place for two": b'{"a": ' + F32 + b', "b": ' + F32 + b"}",
    "a name that stands twice": b'{"a": ' + F32 + b', "a": ' + F32 + b"}",
    "metadata of numbers": b'{"__metadata__": {"x": 1}, "a": ' + F32 + b"}",
    "half a surrogate pair": b'{"\\ud800": ' + F32 + b"}",
    "no UTF-8": b'{"\xff": ' + F32 + b"}",
    "many brackets": b"[" * 5000,
}


@pytest.mark.parametrize("case", HEADERS)
def test_damaged_headers_are_named(tmp_path, wan_folder, model, case):
    header = HEADERS[case]
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    [problem] = checked(wan_folder, str(path))
    assert f"{path} is not a safetensors file" in problem.message
    with pytest.raises(NodeError) as error:
        lora(DirectRun(), model, str(path))
    assert error.value.diagnostic.message == problem.message


FILES = {
    "nothing": (b"", "is truncated: 0 bytes"),
    "a few bytes": (b"abc", "is truncated: 3 bytes"),
    "a pickle": (b"\x80\x02}q\x00X\x04\x00\x00\x00name", "is not a safetensors file: it is a"),
    "a zip file": (b"PK\x03\x04" + bytes(60), "is not a safetensors file: it is a"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is not a safetensors file: it is a"),
    "a web page": (b"<!DOCTYPE html><html><head></head></html>", "is not a safetensors file: it is a"),
}


@pytest.mark.parametrize("case", FILES)
def test_files_of_another_kind_are_named(tmp_path, wan_folder, model, case):
    content, reason = FILES[case]
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    [problem] = checked(wan_folder, str(path))
    assert f"{path} " in problem.message
    assert reason in problem.message
    with pytest.raises(NodeError) as error:
        lora(DirectRun(), model, str(path))
    assert error.value.diagnostic.message == problem.message


def test_a_file_that_broke_off_or_goes_on_is_named(tmp_path, wan_folder):
    path = Path(saved(tmp_path, GOOD))
    whole = path.read_bytes()
    for content in (whole[:-1], whole + b"x"):
        path.write_bytes(content)
        [problem] = checked(wan_folder, str(path))
        assert problem.severity == "error"
        assert str(path) in problem.message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.float8_e5m2])
def test_an_alpha_that_is_not_finite_is_an_error_of_check(tmp_path, wan_folder, value, dtype):
    [problem] = checked(wan_folder, saved(tmp_path, GOOD | {f"{Q}.alpha": torch.tensor(value).to(dtype)}))
    assert problem.severity == "error"
    assert f"{Q}.alpha is {value}, which is no finite number" in problem.message


@pytest.mark.parametrize(
    "dtype",
    [
        *(torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz, torch.float8_e8m0fnu),
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8, torch.int64, torch.uint8),
    ],
)
def test_alphas_of_every_dtype_are_read_as_torch_reads_them(tmp_path, dtype):
    values = torch.arange(256, dtype=torch.uint8)
    values = values.view(dtype) if values.element_size() == dtype.itemsize else (values.float() - 100).to(dtype)
    save_file({f"{index}.alpha": value.clone() for index, value in enumerate(values)}, tmp_path / "a.safetensors")
    found = adapter_header.read(tmp_path / "a.safetensors").alphas
    made = torch.tensor([found[f"{index}.alpha"] for index in range(256)], dtype=torch.float64)
    assert torch.equal(made.nan_to_num(-1e9), values.double().nan_to_num(-1e9))


def test_an_alpha_of_zero_is_a_warning(tmp_path, wan_folder):
    [problem] = checked(wan_folder, saved(tmp_path, GOOD | {f"{Q}.alpha": torch.tensor(0.0)}))
    assert problem.severity == "warning"
    assert problem.message == f"a.safetensors: 1 tensor ({Q}.alpha) is 0"
    assert problem.help == "the adapters of these layers have no effect"


@pytest.mark.parametrize("part", ["lora_up.weight", "diff_b"])
def test_values_that_are_not_finite_are_named_on_loading(tmp_path, part):
    tensors = GOOD | {f"{Q}.diff_b": ones(WIDTH)}
    tensors[f"{Q}.{part}"].view(-1)[-1] = float("nan")
    source = saved(tmp_path, tensors)
    tensors[f"{Q}.{part}"].fill_(1)
    with pytest.raises(NodeError, match=rf"a\.safetensors: {Q}\.{part} has values that are not finite"):
        Lora("transformer", Path(source), 1.0).apply(transformer("wan"), DirectRun())


def test_values_that_a_dtype_cannot_hold_are_named_on_loading(tmp_path):
    source = saved(tmp_path, {f"{Q}.diff": 1e5 * ones(WIDTH, WIDTH)})
    with pytest.raises(
        NodeError, match=r"blocks\.0\.attn1\.to_q\.weight with its LoRA has values that float16"
    ) as error:
        Lora("transformer", Path(source), 1.0).apply(transformer("wan").half(), DirectRun())
    assert "smaller scale" in error.value.help
