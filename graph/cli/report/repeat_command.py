"""The command that runs a recorded run again."""

from __future__ import annotations

import argparse
import json
import shlex
from hashlib import sha256
from typing import Any

from ...contract.workflow_folders import bundled_workflows
from .run_record import RunRecord


def repeat_command(record: RunRecord, exec_parser: argparse.ArgumentParser) -> str:
    """The words of `sgd exec` that make the run again, quoted for a shell.

    Args:
        record: The record.
        exec_parser: The parser of `sgd exec`: only options that it knows, and whose value is not its default, are
            named.
    """
    words = ["sgd", "exec", _file(record)]
    words += [f"{name}={_value(value)}" for name, value in record.inputs.items()]
    for path, value in record.set.items():
        words += ["--set", f"{path}={_value(value)}"]
    for action in exec_parser._actions:
        value = record.options.get(action.dest.removeprefix("option_"))
        if not action.option_strings or value in (None, False, "") or value == action.default:
            continue
        if action.nargs == 0 and value is True:
            words.append(action.option_strings[-1])
        elif action.nargs is None and isinstance(value, str | int | float) and value is not True:
            words += [action.option_strings[-1], str(value)]
    return " ".join(shlex.quote(word) for word in words)


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
