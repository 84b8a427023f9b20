"""A module that is deferred is executed at its first use, once, and is then as it would be without deferring."""

import subprocess
import sys
import textwrap

import pytest


@pytest.fixture
def run(tmp_path):
    package = tmp_path / "slow"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "numbers.py").write_text("print('executed'); import slow.numbers; ONE = 1\ndef two(): return ONE + 1\n")
    inner = package / "inner"
    inner.mkdir()
    (inner / "__init__.py").write_text("print('inner'); from .part import THREE\n")
    (inner / "part.py").write_text("THREE = 3\n")
    (inner / "other.py").write_text("print('other'); from . import THREE\n")
    (package / "marks.py").write_text(
        "print('marks'); seen = []\n"
        "def mark(value): seen.append(value); return value\n"
        "class Base:\n    def name(self): return type(self).__name__\n"
    )
    legacy = package / "legacy"
    legacy.mkdir()
    (legacy / "__init__.py").write_text(
        "print('legacy'); import sys, types, importlib.util\n"
        "class New(types.ModuleType):\n    FOUR = 4\n    __path__ = __path__\n    from .part import Part, Other\n"
        "class Old:\n    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'slow.legacy.old': return importlib.util.find_spec('slow.legacy.part')\n"
        "sys.meta_path.append(Old())\n"
        "sys.modules[__name__] = New(__name__)\n"
    )
    (legacy / "part.py").write_text("print('part')\nclass Part: pass\nclass Other: pass\n")
    (package / "broken.py").write_text("print('tried'); raise ValueError('broken')\n")

    def call(code):
        head = "from sgd.nodes.support.deferred_imports import ALL, defer\n"
        done = subprocess.run(
            [sys.executable, "-c", head + textwrap.dedent(code)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    return call


def test_it_is_executed_at_the_first_use_and_once(run):
    code = """
    defer("slow.numbers")
    import slow.numbers
    def again():
        import slow.numbers
    again()
    print("imported")
    print(slow.numbers.two(), slow.numbers.ONE)
    from slow.numbers import ONE
    import sys, types
    print(sys.modules["slow.numbers"] is slow.numbers, type(slow.numbers) is types.ModuleType)
    print(hasattr(slow.numbers, "three"))
    """
    assert run(code) == ["imported", "executed", "2", "1", "True", "True", "False"]


def test_a_from_import_executes_it(run):
    code = """
    defer("slow.numbers")
    from slow.numbers import two
    print(two())
    """
    assert run(code) == ["executed", "2"]


def test_a_package_has_its_submodules(run):
    code = """
    defer("slow.inner")
    import slow.inner
    print("imported")
    print(slow.inner.THREE, slow.inner.part.THREE)
    """
    assert run(code) == ["imported", "inner", "3", "3"]


def test_one_of_several_threads_executes_it(run):
    code = """
    import threading
    defer("slow.numbers")
    import slow.numbers
    start, found = threading.Barrier(8), []
    def use():
        start.wait()
        found.append(slow.numbers.two())
    threads = [threading.Thread(target=use) for _ in range(8)]
    for each in threads: each.start()
    for each in threads: each.join()
    print(sum(found))
    """
    assert run(code) == ["executed", "16"]


def test_an_error_of_the_module_comes_at_every_use(run):
    code = """
    defer("slow.broken")
    import slow.broken
    for _ in range(2):
        try:
            slow.broken.x
        except ValueError as error:
            print(error)
    """
    assert run(code) == ["tried", "broken", "tried", "broken"]


def test_an_imported_or_absent_module_is_left_alone(run):
    code = """
    import slow.numbers
    defer("slow.numbers")
    defer("slow.absent")
    try:
        import slow.absent
    except ModuleNotFoundError as error:
        print(error.name)
    """
    assert run(code) == ["executed", "slow.absent"]


def test_a_module_of_a_package_executes_the_package_first_and_once(run):
    code = """
    defer("slow.inner")
    import slow.inner
    print("imported")
    import slow.inner.part, slow.inner.other
    import sys
    print(sys.modules["slow.inner.part"] is slow.inner.part, slow.inner.part.__spec__.name)
    """
    assert run(code) == ["imported", "inner", "other", "True", "slow.inner.part"]


def test_named_modules_of_a_package_do_not_need_it(run):
    code = """
    defer("slow.inner", inside=("part",))
    import slow.inner.part
    print(slow.inner.part.THREE)
    import slow.inner.other
    print(slow.inner.other.THREE)
    """
    assert run(code) == ["3", "inner", "other", "3"]


def test_a_deferred_module_executes_the_packages_around_it_first(run):
    code = """
    defer("slow.inner", inside=("other",))
    defer("slow.inner.other")
    import slow.inner.other
    print("imported")
    print(slow.inner.other.THREE)
    """
    assert run(code) == ["imported", "inner", "other", "3"]


def test_a_search_for_a_module_does_not_end_the_delay(run):
    code = """
    import importlib.util
    defer("slow.numbers")
    print(importlib.util.find_spec("slow.numbers").name)
    import slow.numbers
    print("imported", slow.numbers.ONE)
    """
    assert run(code) == ["slow.numbers", "executed", "imported", "1"]


LEGACY = """
homes = {"Part": "slow.legacy.part:Part", "Gone": "slow.gone:Gone"}
defer("slow.legacy", inside=ALL, given={"__version__": "1"}, homes=homes)
"""


def test_an_attribute_is_found_at_its_home_and_a_module_by_its_name(run):
    code = """
    import sys, slow.legacy as first
    from slow.legacy import Part, part, __version__
    print(part.Part is Part, first.__version__, "waits")
    print(first.FOUR, first.Part is Part)
    import slow.legacy
    print(sys.modules["slow.legacy"] is not first, slow.legacy.FOUR)
    print(first.Other is slow.legacy.part.Other, hasattr(first, "FIVE"))
    """
    expected = ["part", "True", "1", "waits", "legacy", "4", "True", "True", "4", "True", "False"]
    assert run(LEGACY + textwrap.dedent(code)) == expected


def test_without_its_home_an_attribute_is_that_of_the_package(run):
    code = """
    import slow.legacy
    print(hasattr(slow.legacy, "Gone"))
    """
    assert run(LEGACY + textwrap.dedent(code)) == ["legacy", "part", "False"]


def test_a_module_that_only_the_package_knows_is_found(run):
    code = """
    import slow.legacy
    print("waits")
    import slow.legacy.old
    print(slow.legacy.old.Part.__name__)
    """
    assert run(LEGACY + textwrap.dedent(code)) == ["waits", "legacy", "part", "part", "Part"]


def test_a_stand_in_for_a_class_is_that_class_once_it_is_used(run):
    code = """
    defer("slow.marks", stand_ins=("Base",))
    from slow.marks import Base
    print(isinstance(3, Base), isinstance(3, (Base, str)))
    print("now")
    class Own(Base): pass
    import slow.marks
    print(Own.__mro__[1] is slow.marks.Base, isinstance(Own(), Base), issubclass(Own, Base), Base().name())
    """
    assert run(code) == ["False", "False", "now", "marks", "True", "True", "True", "Base"]


def test_marks_are_handed_over_in_order(run):
    code = """
    defer("slow.marks", marks=("mark",))
    from slow.marks import mark
    print(mark(1), mark(2), "kept")
    import slow.marks
    print(list(slow.marks.seen), mark(3), slow.marks.seen)
    """
    assert run(code) == ["1", "2", "kept", "marks", "[1,", "2]", "3", "[1,", "2,", "3]"]


def test_each_class_of_an_encoder_is_that_of_transformers():
    code = """
    import sys
    from sgd.nodes.support import start
    start.prepare_imports()
    import transformers, transformers.models
    homes = start.homes()
    found = {name: getattr(transformers, name) for name in homes}
    assert {"CLIPTokenizerFast", "Qwen2_5_VLForConditionalGeneration"} <= set(found)
    assert [type(sys.modules[name]).__name__ for name in ("transformers", "transformers.models")] == ["_Deferred"] * 2
    from transformers import AutoModel, PreTrainedTokenizerFast  # at no home
    import transformers as real
    assert type(real).__name__ == "_LazyModule"
    assert all(getattr(real, name) is value for name, value in found.items())
    assert transformers.__version__ == real.__version__ and transformers.T5Model is real.T5Model
    from transformers.tokenization_utils_fast import PreTrainedTokenizerFast as legacy
    assert legacy is PreTrainedTokenizerFast
    from transformers.utils import ModelArgs, auto_docstring
    assert "description" in ModelArgs.input_ids
    from transformers.models.t5gemma.modeling_t5gemma import T5GemmaModel
    assert "Args" in T5GemmaModel.forward.__doc__
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_adapters_and_the_compiler_work_after_they_were_put_off():
    code = """
    import sys
    from sgd.nodes.support.start import prepare_imports
    prepare_imports()
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, WanTransformer3DModel
    from diffusers.hooks.group_offloading import ModuleGroup
    from diffusers.models.transformers.transformer_wan import WanTransformerBlock
    unused = {"torch._dynamo.eval_frame", "peft.peft_model", "sympy.core", "transformers.models.auto.modeling_auto"}
    assert not unused & set(sys.modules)
    sizes = dict(num_attention_heads=2, attention_head_dim=12, text_dim=8, freq_dim=16, ffn_dim=32, num_layers=1)
    model = WanTransformer3DModel(patch_size=(1, 2, 2), in_channels=4, out_channels=4, **sizes)
    given = torch.randn(1, 4, 1, 4, 4), torch.tensor([1]), torch.randn(1, 3, 8)
    plain = model(*given)[0]
    assert torch.arange(0, 8, 2, device="meta").shape == (4,)
    assert torch.empty(3, 1, device="meta").normal_().add(torch.ones(4, device="meta")).shape == (3, 4)
    assert "sympy.core" not in sys.modules and not torch._dynamo.is_compiling()
    assert "torch._dynamo.eval_frame" not in sys.modules

    @torch.compiler.disable
    def left_alone(value):
        return value * 2
    assert left_alone(1) == 2 and "torch._dynamo.eval_frame" not in sys.modules
    graphs = []
    def backend(graph, inputs):
        graphs.append(graph)
        return graph
    compiled = torch.compile(lambda value: left_alone(value + 1) - 1, backend=backend)
    assert compiled(torch.ones(2)).tolist() == [3, 3] and len(graphs) == 2
    sizes = torch.compile(lambda value: value.reshape(-1, 2) * value.shape[0], backend=backend, dynamic=True)
    assert [sizes(torch.ones(count)).sum().item() for count in (4, 6, 8)] == [16, 36, 64]
    from torch._dynamo import trace_rules
    assert id(WanTransformerBlock) in trace_rules._allowed_callable_ids
    graphs.clear()
    torch.testing.assert_close(torch.compile(model, backend=backend)(*given)[0], plain)
    assert graphs

    from peft import LoraConfig
    from peft.tuners.tuners_utils import BaseTunerLayer
    from diffusers.loaders import lora_base
    model.add_adapter(LoraConfig(target_modules=["to_q"], init_lora_weights=False))
    layers = [layer for layer in model.modules() if isinstance(layer, BaseTunerLayer)]
    assert layers == [layer for layer in model.modules() if isinstance(layer, lora_base.BaseTunerLayer)] != []
    assert not torch.equal(model(*given)[0], plain)
    sigmas = dict(use_beta_sigmas=True, shift=1.0)
    scheduler = FlowMatchEulerDiscreteScheduler.from_config({**FlowMatchEulerDiscreteScheduler().config, **sigmas})
    scheduler.set_timesteps(3)
    assert len(scheduler.sigmas) == 4
    import scipy.optimize, diffusers.hooks, diffusers.models.transformers as models
    from transformers.loss import loss_for_object_detection
    costs = [[4, 1], [2, 8]]
    assert loss_for_object_detection.linear_sum_assignment(costs)[1].tolist() == [1, 0]
    assert models.FluxTransformer2DModel.__module__ == "diffusers.models.transformers.transformer_flux"
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
