"""Model folders with one fault each, made from a good folder; the same ones for the same seed.

A `Fault` names the file that it changed and the component that reads the file. Some faults show in a header. Others
show only when the class, the config and the weights are compared.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple


class Fault(NamedTuple):
    """One fault.

    Attributes:
        name: Its kind and its file.
        part: The component that reads the file; empty for model_index.json.
        file: The changed file, relative to the folder of the model.
        apply: Changes the folder.
        in_check: Whether `sgd check` must find it.
    """

    name: str
    part: str
    file: str
    apply: Callable[[Path, random.Random], None]
    in_check: bool


def copy_linked(source: Path, target: Path, changed: str) -> None:
    """A copy of a folder: hard links for all files but one, which is a real copy."""
    for file in source.rglob("*"):
        place = target / file.relative_to(source)
        if file.is_dir():
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            if str(file.relative_to(source)) == changed:
                shutil.copyfile(file, place)
            else:
                os.link(file, place)


def damaged_bytes(file: str) -> Iterator[tuple[str, Callable[[Path, random.Random], None]]]:
    """Faults of any file."""

    def edit(change: Callable[[bytes, random.Random], bytes]) -> Callable[[Path, random.Random], None]:
        def apply(folder: Path, chance: random.Random) -> None:
            path = folder / file
            path.write_bytes(change(path.read_bytes(), chance))

        return apply

    yield "cut", edit(lambda data, chance: data[: chance.randrange(1, len(data.rstrip()))])
    yield "empty", edit(lambda data, _: b"")
    yield "zeros", edit(lambda data, _: bytes(len(data)))
    yield "pointer", edit(lambda *_: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n")
    yield "page", edit(lambda *_: b"<!DOCTYPE html>\n<html><body>Sign in</body></html>\n")
    yield "noise", edit(lambda data, chance: bytes(chance.randrange(128, 256) for _ in range(64)))

    def as_folder(folder: Path, _: random.Random) -> None:
        (folder / file).unlink()
        (folder / file).mkdir()

    def dangling(folder: Path, _: random.Random) -> None:
        (folder / file).unlink()
        (folder / file).symlink_to(folder / "nowhere")

    yield "folder", as_folder
    yield "dangling", dangling


def damaged_json(file: str) -> Iterator[tuple[str, Callable[[Path, random.Random], None]]]:
    """Faults of a JSON file that holds an object."""
    yield from damaged_bytes(file)

    def text(change: Callable[[str, random.Random], str]) -> Callable[[Path, random.Random], None]:
        def apply(folder: Path, chance: random.Random) -> None:
            path = folder / file
            path.write_text(change(path.read_text(), chance), encoding="utf-8")

        return apply

    yield "list", text(lambda *_: "[1, 2]")
    yield "twice", text(lambda t, _: '{"_a": 1, "_a": 2, ' + t.lstrip().removeprefix("{"))
    yield "NaN", text(lambda t, _: '{"_a": NaN, ' + t.lstrip().removeprefix("{"))
    yield "huge", text(lambda t, _: '{"_a": 1e999, ' + t.lstrip().removeprefix("{"))
    yield "surrogate", text(lambda t, _: '{"_a": "\\ud800", ' + t.lstrip().removeprefix("{"))
    yield "deep", text(lambda t, _: '{"_a": ' + "[" * 5000 + "]" * 5000 + ", " + t.lstrip().removeprefix("{"))
    yield "comma", text(lambda t, _: t.rstrip().removesuffix("}") + ",}")
    yield "no brace", text(lambda t, _: t.lstrip().removeprefix("{"))

    def mark(folder: Path, _: random.Random) -> None:
        path = folder / file
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())

    yield "mark", mark


def edited(file: str, change: Callable[[dict[str, Any], random.Random], None]) -> Callable[[Path, random.Random], None]:
    def apply(folder: Path, chance: random.Random) -> None:
        path = folder / file
        content = json.loads(path.read_text())
        change(content, chance)
        path.write_text(json.dumps(content))

    return apply


def header_edited(
    file: str, change: Callable[[dict[str, Any], random.Random], None]
) -> Callable[[Path, random.Random], None]:
    """A change of the header of a safetensors file; the tensors stay as they are."""

    def apply(folder: Path, chance: random.Random) -> None:
        path = folder / file
        data = path.read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        change(header, chance)
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])

    return apply


def rewritten(
    file: str, change: Callable[[dict[str, Any], random.Random], None]
) -> Callable[[Path, random.Random], None]:
    """A change of the tensors of a file, saved as a right safetensors file."""

    def apply(folder: Path, chance: random.Random) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(folder / file)
        change(tensors, chance)
        (folder / file).unlink()
        save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, folder / file)

    return apply


def pick(names: Any, chance: random.Random) -> Any:
    return chance.choice(sorted(name for name in names if name != "__metadata__"))


def weight_faults(file: str) -> Iterator[tuple[str, bool, Callable[[Path, random.Random], None]]]:
    """Faults of a safetensors file, each with whether the header shows it."""
    for name, apply in damaged_bytes(file):
        yield name, True, apply

    def set_entry(key: str, value: Any) -> Callable[[dict[str, Any], random.Random], None]:
        def change(header: dict[str, Any], chance: random.Random) -> None:
            header[pick(header, chance)][key] = value

        return change

    def drop_entry(key: str) -> Callable[[dict[str, Any], random.Random], None]:
        return lambda header, chance: header[pick(header, chance)].pop(key)

    entries: dict[str, list[Any]] = {
        "dtype": ["F33", 32, None, "I8", "BF16"],
        "shape": [[2, -1], "x", [1 << 62, 1 << 62], [1.5], 3],
        "data_offsets": [[5, 3], [0], [0, 1 << 62], "x", [-1, 7]],
    }
    for key, values in entries.items():
        for value in values:
            yield f"{key} {value}", True, header_edited(file, set_entry(key, value))
        yield f"no {key}", True, header_edited(file, drop_entry(key))
    yield "no tensor", True, header_edited(file, lambda header, chance: header.pop(pick(header, chance)))
    yield "metadata", True, header_edited(file, lambda header, _: header.update(__metadata__={"a": 1}))

    def halve(tensors: dict[str, Any], chance: random.Random) -> None:
        name = pick([n for n, t in tensors.items() if t.numel() > 1], chance)
        tensors[name] = tensors[name].flatten()[1:]

    def whole(tensors: dict[str, Any], chance: random.Random) -> None:
        import torch

        name = pick(tensors, chance)
        tensors[name] = tensors[name].to(chance.choice([torch.int8, torch.int32, torch.bool, torch.int64]))

    def drop(tensors: dict[str, Any], chance: random.Random) -> None:
        del tensors[pick(tensors, chance)]

    def rename(tensors: dict[str, Any], chance: random.Random) -> None:
        name = pick(tensors, chance)
        tensors[f"{name}_"] = tensors.pop(name)

    def scale(tensors: dict[str, Any], chance: random.Random) -> None:
        import torch

        name = pick(tensors, chance)
        tensors[name.rpartition(".")[0] + ".scale_weight"] = torch.ones(1)

    for name, change in (("shape", halve), ("dtype", whole), ("missing", drop), ("renamed", rename), ("scale", scale)):
        yield f"other {name}", False, rewritten(file, change)


def deleted(file: str) -> Callable[[Path, random.Random], None]:
    def apply(folder: Path, _: random.Random) -> None:
        (folder / file).unlink()

    return apply


def index_faults(file: str) -> Iterator[tuple[str, Callable[[Path, random.Random], None]]]:
    """Faults of the index of a component in several shards."""

    def change_map(change: Callable[[dict[str, Any], random.Random], Any]) -> Callable[[Path, random.Random], None]:
        def edit(content: dict[str, Any], chance: random.Random) -> None:
            found = change(content["weight_map"], chance)
            if found is not None:
                content["weight_map"] = found

        return edited(file, edit)

    def other_shard(names: dict[str, Any], chance: random.Random) -> None:
        name = pick(names, chance)
        names[name] = chance.choice(sorted(set(names.values()) - {names[name]}))

    yield "absent tensor", change_map(lambda names, chance: names.update({"absent": names[pick(names, chance)]}))
    yield "other shard", change_map(other_shard)
    yield "absent shard", change_map(lambda names, c: names.update({pick(names, c): "model-9-of-9.safetensors"}))
    yield "outside", change_map(lambda names, c: names.update({pick(names, c): "../../secret.safetensors"}))
    yield "no shard", change_map(lambda names, c: names.update({pick(names, c): c.choice([None, 3, [], {}])}))
    yield "no map", change_map(lambda names, c: c.choice([[], 3, "x", {}]))


VALUES = ["four", "", -1, -7.5, 10**9, 10**30, 2.5, None, True, [], [1, "x"], {}, {"a": 1}, ["four"]]
COUNTS = {
    "transformer/config.json": ["num_layers", "num_attention_heads", "attention_head_dim", "in_channels", "ffn_dim"],
    "vae/config.json": ["base_dim", "z_dim", "num_res_blocks", "in_channels"],
    "text_encoder/config.json": ["num_layers", "d_model", "d_ff", "num_heads", "vocab_size"],
    "scheduler/scheduler_config.json": ["num_train_timesteps", "solver_order"],
}
"""Options that only a positive whole number fits."""
JSON_FILES = ("model_index.json", *COUNTS, "tokenizer/tokenizer_config.json", "tokenizer/tokenizer.json")
PARTS = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")


def faults(folder: Path) -> list[Fault]:
    """All faults of a model folder whose transformer is in several shards."""
    found: list[Fault] = []

    def add(name: str, file: str, apply: Callable[[Path, random.Random], None], in_check: bool = True) -> None:
        part = file.split("/")[0] if "/" in file else ""
        found.append(Fault(f"{name} in {file}", part, file, apply, in_check))

    index = "transformer/diffusion_pytorch_model.safetensors.index.json"
    for file in (*JSON_FILES, index):
        for name, apply in damaged_json(file):
            add(name, file, apply)
        if not file.endswith(index.split("/")[1]):
            add("deleted", file, deleted(file), in_check=not file.endswith("tokenizer_config.json"))
    for file in sorted(str(f.relative_to(folder)) for f in folder.rglob("*.safetensors")):
        for name, in_check, apply in weight_faults(file):
            add(name, file, apply, in_check)
        add("deleted", file, deleted(file))
    for name, apply in index_faults(index):
        add(name, index, apply)
    for file, keys in COUNTS.items():
        for key in keys:
            for value in VALUES:
                add(f"{key} {value!r}", file, edited(file, _put(key, value)), in_check=value not in ([], {}, None))
    for part in PARTS:
        for entry in ([], ["diffusers"], [1, 2], "text", 3, {"a": 1}, ["diffusers", None], ["a", "b", "c"]):
            add(f"{part} {entry}", "model_index.json", edited("model_index.json", _put(part, entry)))
    for value in (None, 3, [], "NoSuchPipeline", ""):
        add(f"class {value}", "model_index.json", edited("model_index.json", _put("_class_name", value)))
    tokenizer = "tokenizer/tokenizer_config.json"
    for key, value in (
        ("model_max_length", "x"),
        ("model_max_length", -3),
        ("padding_side", "up"),
        ("tokenizer_class", 3),
    ):
        add(f"{key} {value}", tokenizer, edited(tokenizer, _put(key, value)))
    for key in ("model", "added_tokens", "pre_tokenizer", "normalizer"):
        for value in ({"type": "Unknown"}, 3, "x"):
            file = "tokenizer/tokenizer.json"
            add(f"{key} {value}", file, edited(file, _put(key, value)), in_check=False)
    return found


def _put(key: str, value: Any) -> Callable[[dict[str, Any], random.Random], None]:
    def change(content: dict[str, Any], _: random.Random) -> None:
        content[key] = value

    return change
