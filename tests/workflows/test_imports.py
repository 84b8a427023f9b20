"""The packages that a run imports. A new one costs every user time at every start, so it must be named here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import tiny_flux, tiny_hunyuan_video, tiny_qwen_image, tiny_z_image

LIST = """
import atexit, json, sys
def told():
    from diffusers.utils.constants import HF_ENABLE_PARALLEL_LOADING
    print(json.dumps([HF_ENABLE_PARALLEL_LOADING, sorted(sys.modules)]))
atexit.register(told)
from sgd import entry
sys.argv = ["sgd", *sys.argv[1:]]
entry.main()
"""

LARGE = 20
"""Modules of a package from which on it is listed."""

KNOWN = {
    "sgd",
    *("torch", "diffusers", "transformers"),
    *("numpy", "av", "PIL", "pydantic", "networkx"),
    *("sympy", "mpmath"),  # torch._dynamo, which diffusers and transformers import at their top
    *("scipy", "accelerate", "peft"),  # transformers' losses; transformers; the hooks of diffusers
    *("requests", "urllib3", "huggingface_hub", "filelock", "jinja2", "yaml"),
    *("httpx", "httpcore", "httpx2", "httpcore2", "anyio", "trio"),  # the client of huggingface_hub, by its version
    *("wcwidth",),  # ftfy
}
"""Packages of which a run imports at least `LARGE` modules."""

UNUSED = (
    "scipy.stats._stats_py",  # the first module that `scipy.stats` imports when it is executed
    "scipy.signal",
    "scipy.interpolate",
    "diffusers.pipelines",
    "torchvision",
    "torchaudio",
    "torchao",
    "sklearn",
    "pandas",
    "tensorflow",
    "onnx",
    "onnxruntime",
    "matplotlib",
    "IPython",
    "datasets",
    "triton",
)
"""Modules that no run of these workflows may import."""

BUILDERS = {
    "flux": tiny_flux.build,
    "hunyuan-video": tiny_hunyuan_video.hunyuan_video,
    "qwen-image": tiny_qwen_image.build,
    "z-image": tiny_z_image.build,
}

WORKFLOW = """
sgd: 1
name: small
nodes:
  model: {{uses: model.load, with: {{source: {source}}}}}
  text: {{uses: text.encode, with: {{model: $model, prompt: a circle}}}}
  noise: {{uses: latents.noise, with: {{model: $model, width: 32, height: 32, seed: 0}}}}
  schedule: {{uses: schedule.make, with: {{model: $model, steps: 2, latents: $noise}}}}
  denoise:
    uses: sgd:parts/cfg_denoise.yaml
    with: {{model: $model, text: $text, latents: $noise, schedule: $schedule, scale: 1{embedded}}}
  frames: {{uses: vae.decode, with: {{model: $model, latents: $denoise}}}}
  image: {{uses: image.save, with: {{frames: $frames, path: image.png}}}}
outputs: {{image: $image}}
"""


def imported(folder: Path, *words: str) -> set[str]:
    """The modules of a process of `sgd exec` at its end, but for those of the standard library."""
    command = [sys.executable, "-c", LIST, "exec", *words, "--device", "cpu", "--quiet", "--out", str(folder / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    parallel, names = json.loads(done.stdout.splitlines()[-1])
    assert parallel  # diffusers reads the shards of a model in several threads
    return {name for name in names if name.partition(".")[0] not in sys.stdlib_module_names}


def check(modules: set[str]) -> None:
    packages = [name.partition(".")[0] for name in modules]
    large = {name for name in set(packages) if packages.count(name) >= LARGE}
    assert large - KNOWN == set()
    unused = {name for name in modules for each in UNUSED if name == each or name.startswith(f"{each}.")}
    # diffusers' lazy package of pipelines may be there; none of its modules may be.
    assert unused - {"diffusers.pipelines"} == set()
    assert "torch" in modules


def test_the_quickstart_imports_no_new_package(tmp_path):
    small = ("noise.width=32", "noise.height=32", "noise.frames=5")
    check(imported(tmp_path, "quickstart", "steps=2", *(word for each in small for word in ("--set", each))))


@pytest.mark.slow
@pytest.mark.parametrize("family", BUILDERS)
def test_no_family_imports_a_new_package(tmp_path, family):
    BUILDERS[family]().save_pretrained(tmp_path / "model")
    file = tmp_path / "small.yaml"
    embedded = ", embedded: 3.5" if family in ("flux", "hunyuan-video") else ""
    file.write_text(WORKFLOW.format(source=tmp_path / "model", embedded=embedded))
    check(imported(tmp_path, str(file)))
