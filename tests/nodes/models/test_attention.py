"""`model.attention`: refused backends, separate values of one model, and the timing of `auto`.

These tests need no GPU. Backends of other packages are checked but not run. The timing of `auto` runs on the CPU with
two kernels of torch.
"""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import node_facts
from helpers.direct import DirectRun, generate, model_of
from sgd.graph.contract.errors import NodeError
from sgd.nodes.models.attention import backend_timing, backends, kernels, packages, tuning
from sgd.nodes.models.attention.backend_table import BACKENDS, FLASH_3_FP8, FLASH_3_WHEEL, MASKS, SAGE_1, SAGE_KERNELS
from sgd.nodes.models.attention.processors import choose, chosen
from sgd.nodes.models.nodes.model_attention import attention
from sgd.nodes.models.row_kernels import head_norms
from sgd.nodes.models.row_kernels.head_norms import HeadNorms
from sgd.nodes.models.transforms import quantize_choice
from sgd.nodes.models.transforms.attention_transform import Attention

GPU_ONLY = [name for name, backend in BACKENDS.items() if backend.capability is not None]
FULL = {
    "components": {"transformer": "WanTransformer3DModel", "transformer_2": "WanTransformer3DModel", "vae": "V"},
    "configs": {"transformer": {"attention_head_dim": 128}},
    "source": "owner/name",
}

TESTS = str(Path(node_facts.__file__).parents[1])


@pytest.fixture
def hopper(monkeypatch):
    """A machine with an H100 and every package."""
    return machine(monkeypatch, (9, 0))


def machine(monkeypatch, capability, **versions):
    found = {"flash-attn": "2.8.3", "flash_attn_3": "3.0.0b1", "flash-attn-4": "4.0.0b36"}
    found |= {"sageattention": "2.2.0", "xformers": "0.0.35", **versions}
    monkeypatch.setattr(backends, "gpu", lambda: capability)
    monkeypatch.setattr(packages, "installed", lambda package, module: found.get(package))


@pytest.fixture
def model(wan_folder):
    return model_of(wan_folder, "scheduler")


class OnGpu(DirectRun):
    device = "cuda"


def acquired(value):
    for part in ("transformer", "text_encoder", "tokenizer", "vae", "scheduler"):
        value.acquire(part, DirectRun())
    return value


def latents(value):
    return generate(value, ["a red circle"], steps=2).states[-1].tensor


def problems(backend, kernel="auto", **description):
    model = {**FULL, **description}
    return list(node_facts.check(attention, backend=backend, kernel=kernel, component="transformer", model=model))


def test_backend_names_match_diffusers():
    from diffusers.models.attention_dispatch import (
        _REQUIRED_FLASH_VERSION,
        _REQUIRED_SAGE_VERSION,
        _REQUIRED_XFORMERS_VERSION,
        AttentionBackendName,
    )

    values = {name.value for name in AttentionBackendName}
    libraries = {backend.library for backend in (*BACKENDS.values(), SAGE_1, FLASH_3_WHEEL, FLASH_3_FP8)}
    assert libraries - values == set(kernels.KERNELS), "names of our kernels differ from those of diffusers"
    assert {backends.chosen("sage", kernel).library for kernel in SAGE_KERNELS} <= values
    assert attention.node.inputs["kernel"].type.choices == ("auto", *SAGE_KERNELS)
    assert BACKENDS["flash"].least == _REQUIRED_FLASH_VERSION
    assert BACKENDS["sage"].least == _REQUIRED_SAGE_VERSION
    assert BACKENDS["xformers"].least == _REQUIRED_XFORMERS_VERSION
    choices = attention.node.inputs["backend"].type.choices
    assert choices == ("auto", *BACKENDS)


def test_diffusers_has_every_class_in_the_mask_table():
    import diffusers

    for name in MASKS:
        assert hasattr(diffusers, name)


@pytest.mark.parametrize("backend", ["auto", "sdpa"])
def test_auto_and_sdpa_work_on_every_machine(backend, run, model):
    assert problems(backend) == []
    plain = latents(acquired(model))
    value = acquired(attention(run, model, backend=backend))
    assert run.details["attention"] == "sdpa"
    assert chosen(value.component("transformer")) == {"native"}
    assert torch.equal(latents(value), plain)


def test_values_of_one_model_keep_their_own_attention(model, run):
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as Registry

    before = Registry.get_active_backend()
    math = acquired(model.transformed(Attention("transformer", ("_native_math",))))
    sdpa = acquired(attention(run, model, backend="sdpa"))
    acquired(model)
    assert Registry.get_active_backend() == before
    assert chosen(math.component("transformer")) == {"_native_math"}
    assert chosen(sdpa.component("transformer")) == {"native"}
    assert chosen(model.component("transformer")) == set()
    seen = []
    for value in (math, model, sdpa):
        seen.append(latents(value))
        assert Registry.get_active_backend() == before
    assert torch.equal(seen[1], seen[2])
    assert torch.allclose(seen[0], seen[1], atol=1e-5)
    assert math.component("transformer") is not model.component("transformer")


def test_an_error_restores_the_default_backend(wan_model):
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as Registry
    from sgd.nodes.models.memory.component_views import view

    before = Registry.get_active_backend()
    made = view(wan_model.component("transformer"))
    with pytest.raises(NodeError, match="flash"):
        choose(made, "flash")
    with pytest.raises(NodeError):
        choose(made, "nonsense")
    with pytest.raises(NodeError, match="no choice of attention"):
        choose(torch.nn.Linear(1, 1), "native")
    assert Registry.get_active_backend() == before
    assert chosen(made) == set()


@pytest.mark.parametrize("backend", GPU_ONLY)
def test_backends_that_this_machine_lacks_are_unavailable(backend, model, run, monkeypatch):
    monkeypatch.setattr(backends, "gpu", lambda: None)
    [problem] = problems(backend)
    assert (problem.code, problem.parameter) == ("unavailable", "backend")
    assert problem.help
    with pytest.raises(NodeError, match=backend):
        attention(run, model, backend=backend)


@pytest.mark.parametrize("backend", GPU_ONLY)
def test_a_cpu_run_refuses_gpu_backends_on_a_machine_with_a_gpu(backend, model, run, hopper):
    assert problems(backend) == []
    with pytest.raises(NodeError, match="the run is on the CPU"):
        attention(run, model, backend=backend)


@pytest.mark.parametrize(
    ("backend", "capability", "works"),
    [
        ("cudnn", (8, 0), True),
        ("cudnn", (7, 5), False),
        ("flash", (8, 6), True),
        ("flash", (7, 0), False),
        ("flash3", (9, 0), True),
        ("flash3", (8, 9), False),
        ("flash3", (10, 0), False),
        ("flash4", (8, 0), True),
        ("flash4", (12, 0), True),
        ("flash4", (7, 5), False),
        ("xformers", (7, 0), True),
        ("sage", (12, 0), True),
        ("sage", (10, 0), False),
    ],
)
def test_the_compute_capability_decides(monkeypatch, backend, capability, works):
    machine(monkeypatch, capability)
    found = problems(backend)
    assert [p.code for p in found] == ([] if works else ["unavailable"])
    if not works:
        assert f"{capability[0]}.{capability[1]}" in found[0].message


class Driver:
    """NVIDIA's driver of a machine with an RTX 3090 and an H100."""

    cards = ((8, 6), (9, 0))

    def cuInit(self, flags):
        return 0

    def cuDeviceGet(self, device, number):
        device._obj.value = number
        return 0 if number < len(self.cards) else 101

    def cuDeviceGetAttribute(self, value, attribute, device):
        if device.value >= len(self.cards):
            return 101
        value._obj.value = self.cards[device.value][attribute - 75]
        return 0


def test_the_card_of_the_run_decides(monkeypatch):
    machine(monkeypatch, (8, 6), torch="2.11.0+cu130")
    monkeypatch.setattr(backends.ctypes, "CDLL", lambda name: Driver())
    backends._of_card.cache_clear()
    try:
        assert [backends.capability(name) for name in ("cpu", "cuda:0", "cuda:1", "cuda:2")] == [
            None,
            (8, 6),
            (9, 0),
            None,
        ]
        found = [backends.machine_problem(BACKENDS["flash3"], name) for name in ("cuda", "cuda:0", "cuda:1")]
        assert [problem and problem.message.endswith("and this GPU has 8.6") for problem in found] == [True, True, None]
        assert quantize_choice.no_product("fp8", "cuda:1", "bfloat16") is None
        assert "compute capability 8.6" in (quantize_choice.no_product("fp8", "cuda:0", "bfloat16") or "")
    finally:
        backends._of_card.cache_clear()


def test_the_package_version_decides(monkeypatch):
    machine(monkeypatch, (9, 0), sageattention="2.0.1")
    [problem] = problems("sage")
    assert problem.message == "sage needs sageattention 2.1.1 or newer, and 2.0.1 is installed"
    machine(monkeypatch, (9, 0), sageattention="1.0.5")
    [problem] = problems("sage")
    assert problem.message == "sage needs sageattention 1.0.6 or newer, and 1.0.5 is installed"
    machine(monkeypatch, (9, 0), **{"flash-attn-4": "4.0.0b3"})
    [problem] = problems("flash4")
    assert problem.message == "flash4 needs flash-attn-4 4.0.0b36 or newer, and 4.0.0b3 is installed"
    machine(monkeypatch, (9, 0), **{"flash-attn": None})
    assert "not installed" in problems("flash")[0].message


def test_sage_uses_the_installed_version_1(monkeypatch, wan_folder):
    """Version 1 has fewer head sizes than version 2, takes float32 too, and has no choice of kernels."""
    machine(monkeypatch, (9, 0), sageattention="1.0.6")
    assert problems("sage") == problems("sage", dtype="float32") == []
    [problem] = problems("sage", configs={"transformer": {"attention_head_dim": 80}})
    assert (problem.code, problem.message) == (
        "unsupported",
        "sage takes a head size of 64 or 96 or 128; this model's head size is 80",
    )
    [problem] = problems("sage", kernel="fp16_cuda")
    assert problem.message == "sage needs sageattention 2.1.1 or newer, and 1.0.6 is installed"
    assert "SageAttention 1" in backends.notes()["sage"]
    monkeypatch.setattr(backends, "head_size", lambda config: 128)
    run = OnGpu()
    transform: Any
    [transform] = attention(run, model_of(wan_folder, "scheduler"), backend="sage").transforms
    assert (transform.candidates, run.details["attention"]) == (("_sgd_sage_1",), "sage")
    machine(monkeypatch, (9, 0))
    assert problems("sage", configs={"transformer": {"attention_head_dim": 80}}) == []
    [transform] = attention(run, model_of(wan_folder, transformer="bfloat16"), backend="sage").transforms
    assert transform.candidates == ("sage",)


@pytest.mark.parametrize(
    ("kernel", "capability", "works"),
    [
        ("fp16_triton", (8, 6), True),
        ("fp16_triton", (12, 0), False),
        ("fp16_cuda", (12, 0), True),
        ("fp8_cuda", (8, 9), True),
        ("fp8_cuda", (8, 6), False),
        ("fp8_cuda_sm90", (9, 0), True),
        ("fp8_cuda_sm90", (8, 9), False),
    ],
)
def test_the_compute_capability_decides_for_kernels_of_sage(monkeypatch, wan_folder, kernel, capability, works):
    machine(monkeypatch, capability)
    assert [p.code for p in problems("sage", kernel=kernel)] == ([] if works else ["unavailable"])
    monkeypatch.setattr(backends, "head_size", lambda config: 128)
    wan = model_of(wan_folder, "scheduler", transformer="bfloat16")
    if works:
        transform: Any
        [transform] = attention(OnGpu(), wan, backend="sage", kernel=kernel).transforms
        assert transform.candidates == (f"_sage_qk_int8_pv_{kernel}",)
    else:
        with pytest.raises(NodeError, match="compute capability"):
            attention(OnGpu(), wan, backend="sage", kernel=kernel)


@pytest.mark.parametrize("backend", ["auto", *(name for name in BACKENDS if name != "sage")])
def test_only_sage_has_a_choice_of_kernels(hopper, model, run, backend):
    [problem] = problems(backend, kernel="fp8_cuda")
    assert (problem.code, problem.parameter) == ("bad-value", "kernel")
    assert backend in problem.message
    with pytest.raises(NodeError, match="kernels"):
        attention(run, model, backend=backend, kernel="fp8_cuda")


def test_xformers_built_for_another_cuda_is_unavailable(monkeypatch, tmp_path):
    """The wheel of 0.0.35 on PyPI is for CUDA 12.8. With a torch for CUDA 13 it imports but has no kernels."""
    machine(monkeypatch, (9, 0))
    for name, file, text in (
        ("torch", "version.py", "__version__ = '2.11.0'\ncuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n"),
        ("xformers", "cpp_lib.json", '{"version": {"cuda": 1208, "torch": "2.10.0+cu128"}}'),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(text)
    monkeypatch.setattr(packages, "_folders", lambda module: [str(tmp_path / module)])
    [problem] = problems("xformers")
    assert (problem.code, "CUDA 12.8, and torch for CUDA 13.0" in problem.message) == ("unavailable", True)
    (tmp_path / "xformers" / "cpp_lib.json").write_text('{"version": {"cuda": 1300}}')
    assert problems("xformers") == []


@pytest.mark.parametrize("backend", ["flash4", "xformers"])
def test_flash4_and_xformers_without_flash_are_unavailable(monkeypatch, backend):
    machine(monkeypatch, (9, 0), **{"flash-attn": None})
    [problem] = problems(backend)
    assert (problem.code, problem.help) == ("unavailable", "pip uninstall xformers")
    machine(monkeypatch, (9, 0), **{"flash-attn": None, "xformers": None})
    assert problems("flash4") == []


def test_a_submodule_is_found_without_importing_its_parent(monkeypatch, tmp_path):
    for folder in ("outer/inner", "outer_only"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("outer", "outer_only"):
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('imported')")
        (tmp_path / f"{name}-1.2.dist-info").mkdir()
        (tmp_path / f"{name}-1.2.dist-info" / "METADATA").write_text(f"Name: {name}\nVersion: 1.2\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert packages.installed("outer", "outer.inner") == packages.installed("outer", "outer") == "1.2"
    assert packages.installed("outer_only", "outer_only.inner") is None
    assert packages.installed("no-such-package", "outer") is None
    assert packages.installed("outer", "no_such_module") is None


@pytest.mark.parametrize("backend", GPU_ONLY)
def test_dtype_and_head_size_decide(hopper, backend):
    assert problems(backend, dtype="bfloat16") == []
    halves = BACKENDS[backend].dtypes
    assert [p.code for p in problems(backend, dtype="float32")] == (["unsupported"] if halves else [])
    [problem] = problems(backend, configs={"transformer": {"attention_head_dim": 12}})
    assert (problem.code, "12" in problem.message) == ("unsupported", True)
    assert problems(backend, configs={"transformer": {"dim": 3840, "n_heads": 30}}) == []


@pytest.mark.parametrize("backend", GPU_ONLY)
def test_the_mask_use_of_the_transformer_decides(hopper, backend):
    masked = problems(backend, components={"transformer": "LTXVideoTransformer3DModel"})
    perhaps = problems(backend, components={"transformer": "QwenImageTransformer2DModel"})
    masks = BACKENDS[backend].masks
    assert [p.code for p in masked] == ([] if masks == "applied" else ["unsupported"])
    assert [p.code for p in perhaps] == (["unsupported"] if masks == "wrong" else [])
    if masked:
        assert "cudnn" in masked[0].help


def test_wan_passes_no_attention_mask(model):
    """With a wrong entry in MASKS, a backend without masks would fail in the middle of a run."""
    transformer = acquired(model).component("transformer")
    with tuning.watching() as seen, torch.no_grad():
        transformer(torch.randn(2, 16, 2, 4, 4), torch.tensor([500, 500]), torch.randn(2, 8, 32))
    assert seen().masked is False
    assert MASKS["WanTransformer3DModel"] == "never"


def test_a_missing_component_is_an_error():
    [problem] = list(
        node_facts.check(attention, component="transformer_2", model={**FULL, "components": {"transformer": "T"}})
    )
    assert problem.code == "bad-value"
    described = node_facts.describe(attention, component="transformer", model=FULL)
    assert described["transforms"] == [["attention", "transformer"]]
    [problem] = list(node_facts.check(attention, component="transformer", model=described))
    assert problem.code == "unsupported"
    assert list(node_facts.check(attention, component="transformer_2", model=described)) == []
    from sgd.nodes.models.nodes.model_expert import expert

    below = node_facts.describe(expert, model=described, component="transformer_2")
    assert list(node_facts.check(attention, component="transformer", model=below)) == []
    below = node_facts.describe(attention, component="transformer", model=below)
    assert below["transforms"] == [["attention", "transformer"], ["attention", "transformer_2"]]


def test_check_does_not_import_torch():
    code = (
        f"import sys; sys.path.insert(0, {TESTS!r}); from helpers import node_facts;"
        "from sgd.nodes.models.nodes.model_attention import attention as a;"
        "from sgd.nodes.models.nodes.model_lora import lora;"
        "from sgd.nodes.models.nodes.model_compile import compile as c;"
        "m={'components': {'transformer': 'T'}, 'configs': {}};"
        "[list(node_facts.check(a, backend=b, component='transformer', model=m)) for b in ('auto', 'cudnn', 'flash')];"
        "node_facts.check(c, component='transformer', model=m); node_facts.check(lora, source='a/b'); a.node.notes();"
        "assert not {'torch', 'diffusers', 'peft'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_notes_give_the_availability_of_each_backend(monkeypatch):
    monkeypatch.setattr(backends, "gpu", lambda: None)
    notes = backends.notes()
    assert list(notes) == list(BACKENDS)
    assert notes["sdpa"].startswith("available")
    assert all(notes[name].startswith("not available: ") for name in GPU_ONLY)
    from sgd.graph.cli.node_help import details
    from sgd.nodes.library.machine_facts import machine_facts

    text = details(attention.node)
    assert "On this machine:" in text
    assert notes["cudnn"] in text
    assert machine_facts()["Attention"] == notes
    machine(monkeypatch, (9, 0))
    assert all(note.startswith("available") for note in backends.notes().values())


def test_a_plan_does_not_change_the_component(wan_folder, run):
    run.planning = True
    run.device = "meta"
    run.options = {"device": "cpu"}
    planned = model_of(wan_folder, "scheduler", kind="meta", device="meta")
    value = attention(run, planned)
    value.acquire("transformer", run)
    assert value.component("transformer") is value.weights.component("transformer")
    with pytest.raises(NodeError, match=r"not installed|has no GPU|on the CPU"):
        attention(run, planned, backend="flash")


# `auto` as on a GPU. The candidates are two kernels of torch, on the CPU.


@pytest.fixture
def empty_memory(monkeypatch, tmp_path):
    """An empty cache folder. Gives the folder of choices."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "sgd" / "kernels" / "attention"


def timed(monkeypatch, seconds, calls=None):
    """Replace the timing: it returns these seconds in turn, one for each backend that agrees."""
    left = iter(seconds)

    def measure(call, device, most):
        call()
        if calls is not None:
            calls.append(device)
        return next(left)

    monkeypatch.setattr(backend_timing, "measure", measure)


CANDIDATES = ("native", "_native_math")


def test_auto_measures_once_and_takes_the_fastest(model, run, monkeypatch, empty_memory):
    calls: list[Any] = []
    timed(monkeypatch, [2e-3, 1e-3], calls)
    plain = latents(acquired(model))
    value = model.transformed(Attention("transformer", CANDIDATES))
    for part in ("transformer", "text_encoder", "tokenizer", "vae", "scheduler"):
        value.acquire(part, run)
    made = latents(value)
    assert chosen(value.component("transformer")) == {"_native_math"}
    assert len(calls) == 2
    assert run.details["attention"] == "_native_math"
    assert run.details["attention_milliseconds"] == {"sdpa": 2.0, "_native_math": 1.0}
    assert torch.allclose(made, plain, atol=1e-5)
    assert run.details["attention_choice"].startswith("measured in ")
    [file] = empty_memory.iterdir()
    case = json.loads(file.read_text())["case"]
    assert case["query"] == [1, 12, 2, 12], "a clip of 3 x 2 x 2 tokens"
    one = shapes(query=(1, 12, 2, 12), key=(1, 16, 2, 12))
    assert tuning.fastest(CANDIDATES, one, DirectRun()).origin == "remembered"
    assert len(calls) == 2


def test_auto_keeps_sdpa_when_it_is_fastest(model, run, monkeypatch, empty_memory):
    timed(monkeypatch, [1e-3, 2e-3])
    value = acquired(model.transformed(Attention("transformer", CANDIDATES)))
    assert torch.equal(latents(value), latents(acquired(model)))
    assert chosen(value.component("transformer")) == {"native"}


def test_auto_measures_each_shape(model, run, monkeypatch, empty_memory):
    timed(monkeypatch, [2e-3, 1e-3, 1e-3, 2e-3])
    value = acquired(model.transformed(Attention("transformer", CANDIDATES)))
    generate(value, ["a"], steps=1, scale=1.0)
    assert chosen(value.component("transformer")) == {"_native_math"}
    generate(value, ["a"], steps=1, scale=1.0, width=64)
    assert chosen(value.component("transformer")) == {"native"}
    generate(value, ["a"], steps=1, scale=1.0)
    assert chosen(value.component("transformer")) == {"_native_math"}
    assert len(list(empty_memory.iterdir())) == 2


def shapes(masked=False, query=(1, 16, 2, 8), key=(1, 16, 2, 8)):
    return backend_timing.Shapes(query, key, masked, torch.float32, torch.device("cpu"))


def test_auto_leaves_out_backends_that_disagree(monkeypatch, empty_memory):
    timed(monkeypatch, [2e-3, 1e-3])
    monkeypatch.setattr(
        backend_timing,
        "attend",
        lambda backend, q, k, v: q * (1.0 if backend == "native" else 1.2 if backend == "off" else 1.01),
    )
    found = tuning.fastest(("native", "off", "near"), shapes(), DirectRun())
    assert (found.backend, found.timings, found.left) == ("near", {"native": 2e-3, "near": 1e-3}, ())


def test_attention_in_fp8_is_timed_with_the_norms_of_the_call(monkeypatch, empty_memory):
    """A block names its norms, and the backend takes scales from them. Queries and keys of the timing fit these."""
    fp8, seen, weights = "_sgd_flash_3_fp8", [], torch.full((2, 8), 0.1)
    weights[1, 3] = 0.4
    norms = HeadNorms(weights, 2 * weights)

    def attend(backend, query, key, value):
        if backend == fp8:
            seen.append(head_norms.known())
            for tensor, scale in zip((query, key), norms.e4m3_scales, strict=True):
                assert 0.2 < float(tensor.abs().max() / (448 * scale)) <= 1
        return query

    timed(monkeypatch, [2e-3, 1e-3, 2e-3, 1e-3])
    monkeypatch.setattr(backend_timing, "attend", attend)
    with tuning.watching() as largest, head_norms.knowing(norms):
        torch.nn.functional.scaled_dot_product_attention(*torch.randn(3, 1, 2, 64, 8))
    call = largest()
    assert call is not None
    assert call.norms is norms
    assert tuning.fastest(("native", fp8), call, DirectRun()).backend == fp8
    assert set(map(id, seen)) == {id(norms)}
    assert tuning.fastest(("native", fp8), replace(call, norms=None), DirectRun()).seconds > 0, "its own choice"


def test_timing_without_memory_keeps_the_first_backend(monkeypatch, empty_memory):
    def attend(backend, query, key, value):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(backend_timing, "attend", attend)
    found = tuning.fastest(CANDIDATES, shapes(), DirectRun())
    assert (found.backend, found.timings, found.left) == ("native", {}, ("_native_math",))


def test_auto_leaves_out_backends_that_fail_or_take_no_mask(monkeypatch, empty_memory):
    timed(monkeypatch, [2e-3])
    assert (
        tuning.fastest(("native", "_flash_3"), shapes(), DirectRun()).backend == "native"
    )  # not installed: raises when called
    tried = []

    def attend(backend, query, key, value):
        tried.append(backend)
        return query

    timed(monkeypatch, [3e-3, 1e-3])
    monkeypatch.setattr(backend_timing, "attend", attend)
    assert (
        tuning.fastest(("native", "flash", "_native_cudnn"), shapes(masked=True), DirectRun()).backend
        == "_native_cudnn"
    )
    assert "flash" not in tried


def test_fastest_times_every_candidate(empty_memory):
    found = tuning.fastest(CANDIDATES, shapes(), DirectRun())
    assert set(found.timings) == set(CANDIDATES)
    assert found.backend == min(found.timings, key=found.timings.__getitem__)
    assert all(0 < seconds < 1 for seconds in found.timings.values())


def test_auto_chooses_the_exact_backends_that_fit(hopper, wan_folder, monkeypatch):
    """Only the choice of candidates is tested, since timing them needs a GPU."""
    wan = model_of(wan_folder, "scheduler", transformer="bfloat16")
    run = OnGpu()
    transform: Any
    [transform] = attention(run, wan).transforms
    assert transform.candidates == ("native",), "no other backend takes heads of size 12"
    monkeypatch.setattr(backends, "head_size", lambda config: 128)
    [transform] = attention(run, wan).transforms
    assert transform.candidates == ("native", "_native_cudnn", "flash", "_flash_3", "_sgd_flash_4", "xformers")
    assert "cudnn" in run.details["attention"]
    [transform] = attention(run, model_of(wan_folder, "scheduler")).transforms
    assert transform.candidates == ("native", "xformers"), "float32"


@pytest.mark.parametrize(("family", "builder"), [("tiny_flux", "build"), ("tiny_hunyuan_video", "hunyuan_video")])
def test_the_mask_table_matches_calls_of_other_families(family, builder):
    import importlib

    from sgd.nodes.models.memory.component_views import entrance

    pipeline = getattr(importlib.import_module(f"helpers.{family}"), builder)()
    pipeline.set_progress_bar_config(disable=True)
    seen = []

    def around(call, *args, **kwargs):
        with tuning.watching() as largest:
            result = call(*args, **kwargs)
        seen.append(largest())
        return result

    entrance(pipeline.transformer).layers.append(around)
    more = {"num_frames": 5, "prompt_template": {"template": "{}", "crop_start": 0}} if "video" in family else {}
    pipeline("a", width=32, height=32, num_inference_steps=1, max_sequence_length=16, output_type="latent", **more)
    masks = MASKS[type(pipeline.transformer).__name__]
    assert {shapes.masked for shapes in seen} == {masks != "never"}  # HunyuanVideo's pipeline keeps the padding


def test_auto_measures_again_for_other_processors(model, run, monkeypatch, empty_memory):
    """HunyuanVideo drops a mask that masks nothing. Calls with and without a mask have equal shapes."""
    timed(monkeypatch, [2e-3, 1e-3])
    value = acquired(model.transformed(Attention("transformer", CANDIDATES)))
    [tuner] = [layer.__self__ for layer in value.component("transformer").forward.layers]
    generate(value, ["a"], steps=2, scale=1.0)
    assert len(tuner.chosen) == 1
    other = type("Other", (type(tuner.attentions[0].processor),), {})
    for module in tuner.attentions:
        module.processor.__class__ = other
    generate(value, ["a"], steps=2, scale=1.0)
    assert [key[1:] for key in tuner.chosen] == [next(iter(tuner.chosen))[1:]] * 2
