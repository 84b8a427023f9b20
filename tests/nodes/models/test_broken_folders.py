"""A broken model folder gives one message that names the file, from the check if a header shows the fault."""

from __future__ import annotations

import random
import re
import shutil
from pathlib import Path

import pytest
import torch
from helpers import broken_models, node_facts
from helpers.direct import DirectRun
from sgd.graph.contract.errors import NodeError
from sgd.nodes.models.nodes.model_load import load

COUNT = 1000
RAW = re.compile(
    r"Traceback|\w+(Error|Exception)\b|object has no|size mismatch|unsupported operand|positional argument"
    r"|unexpected keyword|Unable to load|does not appear to have|untagged enum|Couldn't|Can't load"
    r"|not supported between"
)
"""Words of the libraries' own errors."""


@pytest.fixture(scope="module")
def good(tmp_path_factory, wan_folder):
    """A model folder whose transformer is in several shards, and the tensors of its components."""
    from diffusers import WanTransformer3DModel

    folder = tmp_path_factory.mktemp("good") / "model"
    shutil.copytree(wan_folder, folder)
    module = WanTransformer3DModel.from_pretrained(folder / "transformer")
    shutil.rmtree(folder / "transformer")
    module.save_pretrained(folder / "transformer", max_shard_size="60KB")
    return folder, {part: component(folder, part) for part in ("transformer", "vae", "text_encoder")}


def component(folder: Path, part: str):
    run = DirectRun()
    model = load(run, str(folder))
    model.acquire(part, run)
    made = model.component(part)
    return made.state_dict() if hasattr(made, "state_dict") else made


def examine(fault: broken_models.Fault, source: Path, originals, target: Path, seed: int) -> str | None:
    """The mistake in the answer to a fault; None if it is right."""
    folder = target / "m"
    broken_models.copy_linked(source, folder, fault.file)
    fault.apply(folder, random.Random(seed))
    parts = [fault.part] if fault.part else broken_models.PARTS
    # The compiler calls `check_parts` if `check` found no error.
    found = node_facts.check(load, source=str(folder)) or node_facts.check_parts(load, parts, source=str(folder))
    errors = [problem for problem in found if problem.severity == "error"]
    if fault.in_check and not errors:
        return "the check finds nothing"
    if not errors:
        try:
            for part in parts:
                made = component(folder, part)
                original = originals.get(part)
                if original is not None and (
                    made.keys() != original.keys() or not all(torch.equal(made[k], original[k]) for k in made)
                ):
                    return "it is accepted, with other weights"
            return None if "other" not in fault.name or fault.part == "text_encoder" else "it is accepted"
        except NodeError as error:
            errors = [error.diagnostic]
        except Exception as error:
            return f"a raw {type(error).__name__}: {error}"
    if len(errors) != 1:
        return f"{len(errors)} errors: {errors}"
    message = errors[0].message
    names_file = str(folder / fault.file) in message or (str(folder) in message and Path(fault.file).name in message)
    if not names_file and (not fault.part or f"{folder}/{fault.part} " not in message):
        return f"no file is named: {message}"
    if RAW.search(message):
        return f"a library's error: {message}"
    return None if errors[0].help else f"no cure: {message}"


def test_some_broken_folders(good, tmp_path):
    source, originals = good
    for number, fault in list(enumerate(broken_models.faults(source)))[::13]:
        assert examine(fault, source, originals, tmp_path / str(number), number) is None, fault.name


@pytest.mark.slow
def test_a_thousand_broken_folders(good, tmp_path):
    source, originals = good
    kinds = broken_models.faults(source)
    assert len(kinds) > 400
    wrong = []
    for number in range(COUNT):
        target = tmp_path / str(number)
        answer = examine(kinds[number % len(kinds)], source, originals, target, number)
        if answer is not None:
            wrong.append(f"{kinds[number % len(kinds)].name}: {answer}")
        shutil.rmtree(target)
    assert not wrong, f"{len(wrong)} of {COUNT}\n" + "\n".join(wrong)
