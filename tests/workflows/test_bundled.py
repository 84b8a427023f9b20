"""Every bundled workflow passes its check, plans at full size without a weight file, and some run here."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.in_process import sgd

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "workflows"
FILES = sorted(FOLDER.rglob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.relative_to(FOLDER).as_posix())
def test_check_finds_nothing(file: Path) -> None:
    done = sgd("check", str(file))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


TINY = ("quickstart", "quickstart_cached", "quickstart_tuned", "many_prompts")
"""Workflows of the embedded model, which is too small to gain by `model.optimize`."""


def bodies(nodes: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The nodes of a workflow, those in loops included."""
    for node in nodes.values():
        yield node
        yield from bodies(node.get("body", {}))


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.yaml")), ids=lambda f: f.stem)
def test_every_step_and_decode_of_a_real_model_is_as_fast_as_the_input_speed_says(file: Path) -> None:
    found = yaml.safe_load(file.read_text(encoding="utf-8"))
    fast = {f"${n}" for n, node in found["nodes"].items() if node.get("uses") == "model.optimize"}
    if file.stem in TINY:
        assert not fast
        return
    speed = found["inputs"]["speed"]
    assert (speed["enum"], speed["default"]) == (["eager", "exact", "fast"], "exact")
    assert {found["nodes"][n[1:]]["with"]["level"] for n in fast} == {"$speed"}
    computing = [n for n in bodies(found["nodes"]) if re.match(r"denoiser|vae|\./parts", n.get("uses", ""))]
    models = [n["with"][name] for n in computing for name in ("model", "above", "below") if name in n["with"]]
    assert len(computing) >= 1
    assert set(models) == fast


PLAN_ALL = """
import json, resource, sys, time
from pathlib import Path
import sgd
from sgd.graph.compiler.compile import check
from sgd.graph.runtime.estimate import estimate

folder = Path(sys.argv[1])
values = {"str": "a boat", "path": folder / "images" / "boat.png"}
for file in sorted(folder.glob("*.yaml")):
    began = time.process_time()
    inputs = check(file, fold_inputs=False).graph.inputs
    plan = sgd.compile(file, inputs={n: values[str(d.type)] for n, d in inputs.items() if d.required})
    found = estimate(plan, options={"weights": "dummy", "device": "cpu"})
    found["seconds"] = time.process_time() - began
    found["kilobytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps([file.stem, found]), flush=True)
"""


@pytest.fixture(scope="module")
def plans() -> dict[str, dict]:
    """The estimate of every bundled workflow at full size, from one process without access to the hub."""
    command = [sys.executable, "-c", PLAN_ALL, str(FOLDER)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(line) for line in done.stdout.splitlines())


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(p.stem for p in FOLDER.glob("*.yaml")))
def test_plans_at_full_size_without_weights(name: str, plans: dict[str, dict]) -> None:
    found = plans[name]
    assert found["flops"] > 0
    assert all(row["calls"] for row in found["nodes"])
    # Processor time, so that a busy machine is no reason to fail; the chain plans two models.
    assert found["seconds"] < (40 if name == "image_to_video_chain" else 20)
    assert found["kilobytes"] < 4 * 2**20


@pytest.mark.slow
def test_plan_of_wan_1_3b_shows_its_published_size(plans: dict[str, dict]) -> None:
    sizes = {c["part"]: c["parameters"] for c in plans["wan2_1_t2v"]["components"]}
    # Wan 2.1 technical report (2503.20314): 1.3 B; the configuration of the original repository gives 1.419 B.
    assert 1.41e9 < sizes["transformer"] < 1.43e9
    assert 0.12e9 < sizes["vae"] < 0.13e9


@pytest.mark.slow
def test_plan_of_hunyuan_video_shows_its_size_and_tokens(plans: dict[str, dict]) -> None:
    plan = plans["hunyuan_video"]
    sizes = {c["part"]: c["parameters"] for c in plan["components"]}
    assert 12.8e9 < sizes["transformer"] < 12.9e9
    (noise,) = [row for row in plan["nodes"] if row["type"] == "latents.noise"]
    # 33 latent frames of 45 x 80 patches.
    assert noise["detail"]["tokens"] == 33 * 45 * 80 == 118_800


@pytest.mark.slow
def test_the_text_encoder_is_gone_before_the_transformer_comes(tmp_path: Path) -> None:
    import sgd
    from sgd.graph.contract.events import Observer

    held: set[str] = set()
    together: list[frozenset[str]] = []

    class Components(Observer):
        def part_acquired(self, holder: object, part: str, seconds: float) -> None:
            held.add(part)
            together.append(frozenset(held))

        def part_released(self, holder: object, part: str) -> None:
            held.discard(part)

    plan = sgd.compile("many_prompts", inputs={"steps": 1})
    done = sgd.run(plan, out=tmp_path / "run", observers=[Components()])
    assert done.status == "done", done.error
    heavy = {"text_encoder", "transformer", "vae"}
    assert [sorted(h & heavy) for h in together if h & heavy] != []
    assert all(len(h & heavy) <= 1 for h in together)
    assert {part for h in together for part in h} >= heavy
    assert held == set()
    assert sorted(p.name for p in (tmp_path / "run").glob("*.mp4")) == ["clip-0.mp4", "clip-1.mp4", "clip-2.mp4"]


@pytest.mark.slow
def test_the_record_says_that_dummy_weights_mean_nothing(tmp_path: Path) -> None:
    done = sgd("exec", "quickstart", "steps=1", "--weights", "dummy", "--out", str(tmp_path / "run"), "--json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["options"]["weights"] == "dummy"
    assert any("gate" in w and "nothing" in w for w in record["warnings"])


def test_a_suggestion_is_a_name_that_the_file_can_use(tmp_path: Path) -> None:
    for part in ("parts", "models"):
        (tmp_path / part).symlink_to(FOLDER / part)
    file = tmp_path / "mistaken.yaml"
    file.write_text((FOLDER / "quickstart.yaml").read_text().replace("latents: $denoise}", "latents: $text}"))
    done = sgd("check", str(file))
    assert done.returncode == 2
    # `loop`, which makes the latents, stands in the part and has no name here.
    assert "did you mean `$denoise`?" in done.stderr
