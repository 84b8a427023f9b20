"""The packages that a run imports. A new one costs every user time at every start, so it must be named here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

LIST = """
import atexit, json, sys
def told():
    constants = sys.modules.get("diffusers.utils.constants")
    # A module that waits for its first use has another class.
    executed = [name for name, module in sys.modules.items() if type(module).__name__ != "_Deferred"]
    print(json.dumps([getattr(constants, "HF_ENABLE_PARALLEL_LOADING", True), sorted(executed)]))
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
    *("accelerate", "huggingface_hub", "filelock", "jinja2", "yaml"),
    *("httpx", "httpx2", "anyio"),  # the client of huggingface_hub, by its version
}
"""Packages of which a run imports at least `LARGE` modules."""

UNUSED = (
    "scipy.linalg",
    "scipy.optimize",
    "scipy.stats",
    "scipy.signal",
    "scipy.interpolate",
    "peft",
    "torch._dynamo",
    "torch._inductor",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
    "sympy",
    "ftfy",
    "transformers.models.bert",
    "diffusers.hooks.layerwise_casting",
    "diffusers.models.transformers.transformer_flux",
    "diffusers.models.unets.unet_2d_condition",
    "diffusers.pipelines",
    "httpcore2",
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


def test_the_quickstart_imports_no_new_package_and_few_where_results_are_stored(tmp_path):
    small = ("noise.width=32", "noise.height=32", "noise.frames=5")
    words = ("quickstart", "steps=2", *(word for each in small for word in ("--set", each)))
    store = ("--store", str(tmp_path / "store"))
    check(imported(tmp_path, *words, *store))
    again = imported(tmp_path, *words, *store, "--overwrite")
    assert "torch" in again
    assert {"diffusers.models", "transformers.modeling_utils", "torch._dynamo"} & again == set()
