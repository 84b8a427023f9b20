"""The bundled workflow with a tuned gate: each choice has a plan, and a clip that was not measured keeps its PSNR."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import sgd
import yaml
from sgd.graph.contract.events import Observer
from sgd.graph.contract.workflow_folders import bundled_workflows
from sgd.nodes.cache.tuning.tuned_table import read
from sgd.nodes.models.repository import fingerprint
from sgd.nodes.values import Frames

FOLDER = bundled_workflows()
TABLE = read(FOLDER / "tables" / "quickstart_tuned.json")
INPUTS = yaml.safe_load((FOLDER / "quickstart_tuned.yaml").read_text())["inputs"]
PROMPT = "a small yellow triangle moving left on a purple background"


def test_the_table_is_of_the_model_that_comes_with_sgd() -> None:
    assert TABLE.identity.weights == fingerprint.of_weights(FOLDER / "models" / "tiny-wan" / "transformer", None)
    assert TABLE.model.source == "sgd:models/tiny-wan"
    assert TABLE.counts == [20, 50]


@pytest.mark.parametrize("steps", [20, 50])
def test_each_choice_has_a_plan(steps: int) -> None:
    schedule = TABLE.schedule(steps)
    assert schedule is not None
    found = [schedule.cheapest(psnr) for psnr in INPUTS["psnr"]["enum"]]
    computed = [plan.mask.count("1") for plan in found if plan is not None]
    assert len(computed) == len(found)
    assert sorted(computed) == computed
    assert computed[-1] < steps
    assert len(schedule.measured) >= 4 <= len(schedule.chosen)
    assert not set(schedule.measured) & set(schedule.chosen)
    assert hashlib.sha256(PROMPT.encode()).hexdigest()[:16] not in {*schedule.measured, *schedule.chosen}


class Seen(Observer):
    """The frames of a run."""

    frames: Any = None

    def node_finished(self, call: Any, seconds: float, outputs: Any) -> None:
        for value in outputs.values():
            if call.type.name == "vae.decode" and isinstance(value, Frames):
                self.frames = value.tensor


@pytest.mark.slow
def test_a_prompt_that_was_not_measured_keeps_its_psnr(tmp_path: Path) -> None:
    from skimage.metrics import peak_signal_noise_ratio

    text = (FOLDER / "quickstart_tuned.yaml").read_text().replace("./", "sgd:")
    gate = "cache.tuned, with: {table: sgd:tables/quickstart_tuned.json, psnr: $psnr}"
    (tmp_path / "tuned.yaml").write_text(text)
    (tmp_path / "none.yaml").write_text(text.replace(gate, "cache.none"))
    schedule = TABLE.schedule(20)
    assert schedule is not None

    def made(name: str, psnr: int) -> tuple[Any, Any]:
        seen = Seen()
        plan = sgd.compile(tmp_path / f"{name}.yaml", inputs={"prompt": PROMPT, "steps": 20, "seed": 7, "psnr": psnr})
        done = sgd.run(plan, out=tmp_path / f"{name}-{psnr}", observers=[seen])
        assert done.status == "done", done.error
        return seen.frames.double().numpy(), done.record

    with sgd.session():
        reference, _ = made("none", 38)
        for psnr in INPUTS["psnr"]["enum"]:
            frames, record = made("tuned", psnr)
            kept = schedule.cheapest(psnr)
            assert kept is not None
            assert {total["steps"] for total in record["gate_totals"]} == {kept.mask}
            assert peak_signal_noise_ratio(reference, frames, data_range=1.0) >= psnr
