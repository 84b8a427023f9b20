"""Views: several values of one model share the weights, and each has its own transforms."""

import gc
import weakref
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from helpers.direct import DirectRun, model_of
from sgd.graph.contract.errors import NodeError
from sgd.nodes.models.memory.component_views import entrance, view
from sgd.nodes.models.memory.transform_order import misplaced


@dataclass(frozen=True)
class Doubled:
    """A transform that doubles the outputs of the component and counts its applications."""

    kind: ClassVar[str] = "attention"
    applied: ClassVar[list[str]] = []

    component: str = "transformer"
    factor: float = 2.0

    def apply(self, module, run):
        self.applied.append(self.component)

        def around(call, *args, **kwargs):
            return tuple(self.factor * output for output in call(*args, **kwargs))

        entrance(module).layers.append(around)


@dataclass(frozen=True)
class Broken(Doubled):
    def apply(self, module, run):
        raise NodeError("cannot be done")


@pytest.fixture(autouse=True)
def counted():
    Doubled.applied.clear()
    return Doubled.applied


@pytest.fixture
def model(wan_folder):
    loaded = model_of(wan_folder, "scheduler")
    loaded.release("scheduler")
    return loaded


def predict(model):
    generator = torch.Generator().manual_seed(0)
    inputs = {
        "hidden_states": torch.randn(1, 16, 2, 4, 4, generator=generator),
        "timestep": torch.tensor([500]),
        "encoder_hidden_states": torch.randn(1, 8, 32, generator=generator),
    }
    with torch.no_grad():
        return model.component("transformer")(**inputs, return_dict=False)[0]


@pytest.mark.parametrize("part", ["transformer", "text_encoder", "vae"])
def test_a_view_shares_every_tensor_and_no_module(wan_model, part):
    module = wan_model.component(part)
    made = view(module)
    for tensors in ("named_parameters", "named_buffers"):
        originals, copies = dict(getattr(module, tensors)()), dict(getattr(made, tensors)())
        assert originals.keys() == copies.keys()
        assert all(copies[name] is tensor for name, tensor in originals.items())
    assert {id(m) for m in module.modules()}.isdisjoint(id(m) for m in made.modules())
    assert type(made) is type(module)
    assert dict(made.config) == dict(module.config) if part != "text_encoder" else True


def test_values_of_one_model_keep_their_own_transforms(model, run):
    doubled = model.transformed(Doubled())
    halved = model.transformed(Doubled(factor=0.5))
    for value in (doubled, model, halved):
        value.acquire("transformer", run)
    plain = predict(model)
    assert torch.equal(predict(doubled), 2 * plain)
    assert torch.equal(predict(halved), 0.5 * plain)
    assert torch.equal(predict(model), plain)
    parameters = [next(value.component("transformer").parameters()) for value in (model, doubled, halved)]
    assert all(p is parameters[0] for p in parameters)


def test_values_share_other_components(model, run):
    doubled = model.transformed(Doubled())
    for value in (model, doubled):
        value.acquire("vae", run)
    assert doubled.component("vae") is model.component("vae")


def test_transforms_follow_the_repository_name_of_a_component(tmp_path, run):
    from helpers import tiny
    from sgd.nodes.models.nodes.model_expert import expert

    experts = model_of(tiny.save("wan", tmp_path / "two", experts=2, boundary_ratio=0.9), "scheduler")
    below = expert(experts, "transformer_2")
    before = expert(experts.transformed(Doubled("transformer_2")), "transformer_2")
    after = below.transformed(Doubled(below.name("transformer")))
    other = expert(experts.transformed(Doubled("transformer")), "transformer_2")
    assert [t.component for t in after.transforms] == ["transformer_2"]
    for value in (below, before, after, other):
        value.acquire("transformer", run)
    assert torch.equal(predict(before), 2 * predict(below))
    assert torch.equal(predict(after), 2 * predict(below))
    assert torch.equal(predict(other), predict(below))
    assert after.component("transformer") is before.component("transformer"), "equal transforms share a view"


def test_equal_transforms_are_applied_once(model, run, counted):
    values = [model.transformed(Doubled()) for _ in range(3)]
    for value in values:
        value.acquire("transformer", run)
    assert len(counted) == 1
    assert len({id(value.component("transformer")) for value in values}) == 1


def test_a_second_transform_of_one_kind_is_an_error(model, run):
    from sgd.nodes.models.transforms.attention_transform import Attention

    value = model.transformed(Attention("transformer", ("_native_math",)))
    with pytest.raises(NodeError, match="already went through"):
        value.transformed(Doubled())
    assert value.facts()["transforms"] == ["attention of transformer"]
    assert "transforms" not in model.facts()


@pytest.mark.parametrize(
    ("kind", "before", "why"),
    [
        ("lora", ["lora"], None),
        ("compile", ["lora", "attention"], None),
        ("lora", ["attention"], "cannot come after model.attention"),
        ("attention", ["lora", "compile"], "cannot come after model.compile"),
        ("compile", ["compile"], "already went through model.compile"),
    ],
)
def test_the_order_of_transforms_is_checked(kind, before, why):
    problem = misplaced(kind, before)
    assert (problem is None) if why is None else (why in problem.message)


def test_released_views_are_freed(model, run):
    doubled = model.transformed(Doubled())
    doubled.acquire("transformer", run)
    doubled.acquire("transformer", run)
    module = weakref.ref(doubled.component("transformer"))
    storage = weakref.ref(next(doubled.component("transformer").parameters()))
    doubled.release("transformer")
    assert module() is doubled.component("transformer")
    doubled.release("transformer")
    assert module() is None
    assert storage() is None
    assert len(model.weights.views) == 0
    with pytest.raises(NodeError, match="not in memory"):
        doubled.component("transformer")


def test_a_view_works_after_other_values_are_released(model, run):
    doubled = model.transformed(Doubled())
    doubled.acquire("transformer", run)
    model.acquire("transformer", run)
    plain = predict(model)
    model.release("transformer")
    assert torch.equal(predict(doubled), 2 * plain)


def test_a_value_does_not_get_the_component_of_another(model, run):
    doubled = model.transformed(Doubled())
    model.acquire("transformer", run)
    with pytest.raises(NodeError, match="not in memory"):
        doubled.component("transformer")


def test_a_transform_that_fails_leaves_nothing_behind(model, run):
    broken = model.transformed(Broken())
    with pytest.raises(NodeError, match="cannot be done"):
        broken.acquire("transformer", run)
    gc.collect()
    with pytest.raises(NodeError, match="not acquired"):
        model.weights.release("transformer")
    assert len(model.weights.views) == 0


def test_a_plan_applies_no_transforms(wan_folder, counted):
    planned = model_of(wan_folder, "scheduler", kind="meta", device="meta").transformed(Doubled())
    planned.acquire("transformer", DirectRun())
    assert counted == []
    assert planned.component("transformer").device.type == "meta"
    planned.release("transformer")


def test_an_entrance_has_the_signature_of_the_forward(wan_model):
    import inspect

    made = view(wan_model.component("transformer"))
    expected = inspect.signature(made.forward)
    entrance(made)
    assert inspect.signature(made.forward) == expected
    assert entrance(made) is entrance(made)
