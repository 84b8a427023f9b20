"""Checks the files of one component, as far as their headers tell: before a run, in milliseconds. Torch-free.

`component_fit.py` compares weights with the component's class, when the component is loaded.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ....graph.contract.diagnostics import Diagnostic
from ....graph.contract.errors import NodeError
from ....graph.contract.ports import show
from ...support.file_contents import mistaken
from . import weight_files
from .config_checks import config_problems
from .repository import DAMAGED, Repository, read_json

VOCABULARIES = ("tokenizer.json", "spiece.model", "tokenizer.model", "vocab.json", "vocab.txt")
"""Files that hold a tokenizer's vocabulary. One of them is needed, or a file of another name with these endings."""
VOCABULARY_ENDINGS = (".tiktoken", ".model")
GENERATION = "generation_config.json"
PARSED = 512 << 10  # bytes; a larger JSON file of a tokenizer is parsed only when the tokenizer cannot be loaded
PADDING = ("left", "right")


def component_problems(repository: Repository, part: str, variant: str | None) -> Iterator[Diagnostic]:
    """Errors and warnings of a component's files, without places.

    Files of a hub repository that are not in the cache are no problem.

    Args:
        repository: The repository.
        part: Name of the component.
        variant: Variant of the weight files.
    """
    try:
        library, name = repository.entry(part)
        folder = repository.folder / part
        if not folder.is_dir():
            if repository.kind == "folder":
                raise repository.no_component_folder(part)
            return
        if "tokenizer" in part:
            check_tokenizer(folder, complete=repository.kind == "folder")
            return
        weights = find_weights(folder, variant)
        config = repository.config(part)
        if repository.kind == "folder" and not weights and needs_weights(repository, part):
            names = [file.name for file in folder.iterdir()]
            raise weight_files.no_weights(repository.source, part, names, variant, weight_files.variants(folder))
        if weight_files.exists(folder / GENERATION):
            read_json(folder / GENERATION)  # transformers reads it too
        yield from warnings_of_config(repository, part, config, library, name, weights)
    except NodeError as error:
        yield error.diagnostic
    except OSError as error:
        message = f"cannot read {repository.folder / part}: {error.strerror or error}"
        yield Diagnostic("bad-value", message, help=DAMAGED)


def find_weights(folder: Path, variant: str | None) -> list[Path]:
    """The checked weight files of a component: of the variant, or else its ordinary ones."""
    return (weight_files.weight_files(folder, variant) if variant else []) or weight_files.weight_files(folder, None)


def needs_weights(repository: Repository, part: str) -> bool:
    """Whether a component has weights: only modules have a config.json."""
    file = repository.config_file(part)
    return file is not None and file.name == "config.json"


def warnings_of_config(
    repository: Repository, part: str, config: Mapping[str, Any], library: str, name: str, weights: list[Path]
) -> Iterator[Diagnostic]:
    """Warnings about the values of a configuration.

    Raises:
        NodeError: If the class cannot be built with a value.
    """
    file = repository.config_file(part)
    tensors = sum(len(weight_files.header(path)) for path in weights) if weights else None
    for problem in config_problems(config, library, name, tensors):
        message = f"{file}: {problem.message}"
        if not problem.is_warning:
            raise NodeError(message, help=problem.help or "correct the value, or download the file again")
        help = problem.help or f"this version of {library} ignores it"
        yield Diagnostic("unknown-key", message, help=help, severity="warning")


def check_tokenizer(folder: Path, complete: bool = True, parse_all: bool = False) -> None:
    """Check the files of a tokenizer.

    Args:
        folder: Its folder.
        complete: Whether all of its files should be there.
        parse_all: Whether large JSON files are parsed too, which takes half a second.

    Raises:
        NodeError: If a file is damaged or missing. The message names the file.
    """
    names = sorted(os.listdir(folder))
    if complete and not any(name in VOCABULARIES or name.endswith(VOCABULARY_ENDINGS) for name in names):
        raise NodeError(
            f"{folder} holds no vocabulary: it has no {VOCABULARIES[0]}, {VOCABULARIES[1]} or {VOCABULARIES[3]}",
            help="the copy is incomplete: download the model again",
        )
    for name in names:
        path = folder / name
        if not name.endswith((".json", ".model", ".txt", ".tiktoken", ".jinja")):
            continue
        if not path.is_file():
            raise NodeError(f"{path} is not a file", help=DAMAGED)
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(80)
            file.seek(max(0, size - 80))
            end = file.read(80)
        known = mistaken(start)
        if known is not None:
            raise NodeError(f"{path} is not the file of a tokenizer: it is {known.what}", help=known.cure)
        if not size:
            raise NodeError(f"{path} is empty", help=DAMAGED)
        if not name.endswith(".json"):
            continue
        if size <= PARSED or parse_all:
            content = read_json(path)
            if name == "tokenizer_config.json":
                _check_settings(path, content)
        elif start.lstrip()[:1] != b"{" or end.rstrip()[-1:] != b"}":
            raise NodeError(f"{path} is not a complete JSON object", help=DAMAGED)


def _check_settings(path: Path, config: Mapping[str, Any]) -> None:
    length, side = config.get("model_max_length"), config.get("padding_side")
    if length is not None and (isinstance(length, bool) or not isinstance(length, int | float) or length < 1):
        raise NodeError(f"{path}: `model_max_length` is {show(length)}, not a positive number", help=DAMAGED)
    if side is not None and side not in PADDING:
        raise NodeError(f"{path}: `padding_side` is {show(side)}, not left or right", help=DAMAGED)
    named = config.get("tokenizer_class")
    if named is not None and not isinstance(named, str):
        raise NodeError(f"{path}: `tokenizer_class` is {show(named)}, not text", help=DAMAGED)
