"""`sgd calibrate`: run the denoising of a workflow once for each prompt, and write a table for cache gates."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ....graph.contract.constants import DONE
from ....graph.contract.errors import NodeError
from ....graph.contract.library_command import WorkflowFile, WorkflowPart
from ....graph.contract.suggestions import did_you_mean
from ...library.standard_library import TRUST_REMOTE_CODE
from .measurements import Measurements
from .table import put_aside

FEW = 5
LARGEST = 1 << 24  # bytes of a file of prompts


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of `sgd calibrate`."""
    TRUST_REMOTE_CODE.add_to(parser)
    parser.add_argument("--prompts", metavar="FILE", help="a text file with one prompt on each line")
    parser.add_argument("--input", default="prompt", metavar="NAME", help="the input for the prompts (default: prompt)")
    parser.add_argument("--order", type=int, default=4, metavar="N", help="order of the polynomials (default: 4)")
    parser.add_argument("--out", metavar="TABLE", help="the file to write (default: <name>-table.json here)")
    parser.add_argument("--overwrite", action="store_true", help="replace a table that exists")
    parser.add_argument("--json", action="store_true", help="print the table on stdout")


def command(arguments: Namespace, workflow: WorkflowFile) -> int:
    """`sgd calibrate`."""
    if arguments.order < 1:
        raise NodeError(f"--order {arguments.order}: the order of a polynomial is 1 or more")
    prompts = read_prompts(arguments.prompts) if arguments.prompts is not None else None
    if prompts is not None and arguments.input in workflow.given:
        raise NodeError(f"{arguments.input} is given twice: by --prompts and by {arguments.input}=…")
    measurements = Measurements(arguments.order)
    several = prompts is not None and takes_several(workflow, arguments.input)

    def part(prompt: str | None) -> WorkflowPart:
        values: dict[str, Any] = {} if prompt is None else {arguments.input: [prompt] if several else prompt}
        return denoising(workflow, measurements, values)

    first = part(prompts[0] if prompts else None)
    target = workflow.output_file(arguments.out, f"{first.file_name}-table.json", arguments.overwrite)
    device = first.device
    texts = own_texts(first.inputs.get(arguments.input)) if prompts is None else prompts
    if len(texts) < FEW:
        workflow.say("warning: a table measured with few prompts may not fit other prompts; give more with --prompts")
    options = {TRUST_REMOTE_CODE.key: TRUST_REMOTE_CODE.value_in(arguments), **measurements.options}
    for number, prompt in enumerate([None] if prompts is None else prompts):
        measured = part(prompt)
        if prompts is not None and len(prompts) > 1:
            workflow.say(f"prompt {number + 1} of {len(prompts)}: {' '.join(prompts[number].split())[:80]}")
        measured.run(measurements, options, unfinished="no table was written")
        measurements.check()
    made = {"workflow": first.name, "workflow_sha256": first.sha256, "device": device}
    table = measurements.table(texts, made)
    workflow.save(table, target)
    print(json.dumps(table, indent=1) if arguments.json else f"{measurements.summary(table)}\ntable: {target}")
    return DONE


def denoising(workflow: WorkflowFile, measurements: Measurements, values: dict[str, Any]) -> WorkflowPart:
    """Compile the part of a workflow that is measured.

    Gates are not checked, because the workflow may name the table that this command will write.

    Raises:
        NodeError: If the workflow has no node to measure.
    """
    with put_aside():
        found = workflow.part(measurements.nodes, values)
    if found is None:
        types = ", ".join(sorted(measurements.nodes))
        message = f"{workflow.file} has no {types} that would run"
        raise NodeError(message, help="calibrate a workflow with a denoise loop")
    return found


def read_prompts(path: str) -> list[str]:
    """Read the lines of a file that are not blank.

    Raises:
        NodeError: If the file has no such line, cannot be read, is too large, or is not UTF-8 text.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(LARGEST + 1)  # a device may have no end
        if len(content) > LARGEST:
            raise NodeError(f"--prompts {path}: the file is larger than {LARGEST >> 20} MiB", help="take fewer prompts")
        lines = content.decode("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise NodeError(
            f"--prompts {path}: {getattr(error, 'strerror', None) or 'the file is not UTF-8 text'}"
        ) from error
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise NodeError(f"--prompts {path}: the file has no prompt", help="write one prompt on each line")
    return found


def takes_several(workflow: WorkflowFile, name: str) -> bool:
    """Whether the input for prompts is a list.

    Raises:
        NodeError: If the workflow has no such input, or the type of the input is not text.
    """
    with put_aside():
        types = workflow.input_types()
    if types is None:
        return False
    declared = types.get(name)
    if declared is None:
        names = list(types)
        help = did_you_mean(name, names) or f"inputs to choose with --input: {', '.join(names) or 'none'}"
        raise NodeError(f"{workflow.file} has no input `{name}` for the prompts", help=help)
    kind = declared.item if declared.item is not None else declared
    if kind.kind != "str":
        message = f"the input `{name}` of {workflow.file} is {declared}, and prompts are text"
        raise NodeError(message, help="choose another with --input")
    return declared.kind == "list"


def own_texts(value: Any) -> Sequence[str]:
    """The prompts that the workflow itself contains, from the value of the input."""
    return [value] if isinstance(value, str) else [str(text) for text in value] if isinstance(value, list) else []
