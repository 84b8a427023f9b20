"""The commands that run a recorded run again: from its recipe, and from its workflow file."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from ...contract.workflow_folders import bundled_workflows
from ...runtime.context import RECORD
from .run_record import RecordedRun, RunRecord


def repeat_command(record: RunRecord, exec_parser: argparse.ArgumentParser, plain: Mapping[str, Any]) -> str:
    """The words of `sgd exec` that make the run again, quoted for a shell.

    Args:
        record: The record.
        exec_parser: The parser of `sgd exec`: only options that it knows, and whose value is not its default, are
            named.
        plain: The record as plain data, whose recipe names the node libraries.
    """
    words = ["sgd", "exec", _file(record)]
    words += [f"{name}={_value(value)}" for name, value in record.inputs.items()]
    for path, value in record.set.items():
        words += ["--set", f"{path}={_value(value)}"]
    return shlex.join([*words, *_libraries(plain), *_options(record, exec_parser)])


def recipe_command(run: RecordedRun, exec_parser: argparse.ArgumentParser) -> str | None:
    """The words of `sgd exec` that make the run again from the text of its files in the record, quoted for a shell.

    None for a record without a recipe. Of a whole path a recipe has the file name only, so such inputs are named.

    Args:
        run: The run.
        exec_parser: As for `repeat_command`.
    """
    recipe = run.plain.get("recipe")
    if not isinstance(recipe, dict):
        return None
    kept = recipe.get("inputs")
    known = kept if isinstance(kept, dict) else {}
    words = ["sgd", "exec", str(run.folder / RECORD)]
    words += [f"{name}={_value(value)}" for name, value in run.record.inputs.items() if known.get(name, ...) != value]
    return shlex.join([*words, *_libraries(run.plain), *_options(run.record, exec_parser)])


def _libraries(record: Mapping[str, Any]) -> list[str]:
    """`--library` for each file of nodes; a recipe has their names without folders."""
    recipe = record.get("recipe")
    found = recipe.get("libraries") if isinstance(recipe, Mapping) else None
    files = [each for each in found if isinstance(each, Mapping)] if isinstance(found, list) else []
    return [word for each in files if "sha256" in each for word in ("--library", str(each.get("name")))]


def _options(record: RunRecord, exec_parser: argparse.ArgumentParser) -> list[str]:
    """The options of the run that are not the default."""
    words: list[str] = []
    for action in exec_parser._actions:
        value = record.options.get(action.dest.removeprefix("option_"))
        if not action.option_strings or value in (None, False, "") or value == action.default:
            continue
        if action.nargs == 0 and value is True:
            words.append(action.option_strings[-1])
        elif action.nargs is None and isinstance(value, str | int | float) and value is not True:
            words += [action.option_strings[-1], str(value)]
    return words


def _file(record: RunRecord) -> str:
    """The name of the bundled workflow if its text is the one that ran; else the name of the file."""
    name = record.workflow.file or "FILE"
    bundled = bundled_workflows() / name
    is_plain = "/" not in name and "\\" not in name and bundled.is_file()
    if is_plain and sha256(bundled.read_bytes()).hexdigest() == record.workflow.sha256:
        return bundled.stem
    return name


def _value(value: Any) -> str:
    """A value as `name=value` takes it: text as it is, other values as JSON, which is YAML too."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
