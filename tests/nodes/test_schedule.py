"""Schedules: noise levels and single steps, compared with diffusers' schedulers."""

from functools import partial
from typing import Any

import pytest
import torch
from helpers import node_facts
from sgd.graph.contract.errors import NodeError
from sgd.nodes import schedule
from sgd.nodes.families import by_name
from sgd.nodes.schedule import SchedulerState
from sgd.nodes.values import Latents, Size, Step, Velocity

WAN = {
    "_class_name": "UniPCMultistepScheduler",
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "flow_shift": 3.0,
}
EULER = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 5.0, "num_train_timesteps": 1000}


class SchedulerModel:
    """A model with a scheduler and no other component."""

    device = "cpu"

    def __init__(self, config):
        import diffusers

        config = dict(config)
        self.scheduler = getattr(diffusers, config.pop("_class_name"))(**config)

    family = by_name("wan")

    def component(self, name):
        assert name == "scheduler"
        return self.scheduler


@pytest.mark.parametrize("steps", [1, 4, 30])
@pytest.mark.parametrize("name", ["unipc", "euler", "dpm++", "deis"])
@pytest.mark.parametrize("config", [WAN, EULER], ids=["from-unipc", "from-euler"])
def test_solvers_made_from_another_scheduler_keep_its_shift(config, name, steps):
    """Each solver, made from each configuration, has the noise levels of the configuration's shift."""
    import diffusers

    shift = config.get("shift") or config["flow_shift"]
    own = {
        "unipc": lambda: diffusers.UniPCMultistepScheduler(**FLOW, flow_shift=shift),
        "euler": lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift=shift),
        "dpm++": lambda: diffusers.DPMSolverMultistepScheduler(**FLOW, flow_shift=shift),
        "deis": lambda: diffusers.DEISMultistepScheduler(**FLOW, flow_shift=shift),
    }[name]()
    own.set_timesteps(steps)
    made = schedule.make(SchedulerModel(config), steps=steps, scheduler=name)
    assert made.scheduler == type(own).__name__
    assert [s.sigma for s in made] == own.sigmas[:-1].tolist()
    assert torch.equal(torch.stack([s.value for s in made]), own.timesteps)
    assert [s.timestep for s in made] == own.timesteps.tolist()
    assert [s.index for s in made] == list(range(steps))
    assert {s.count for s in made} == {steps}


FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}


@pytest.mark.parametrize("name", ["auto", "euler", "dpm++"])
def test_shift_moves_the_noise_levels_up(name):
    low, high = (schedule.make(SchedulerModel(WAN), steps=8, shift=s, scheduler=name) for s in (1.0, 8.0))
    assert all(a.sigma <= b.sigma for a, b in zip(low, high, strict=True))
    assert high.steps[4].sigma > low.steps[4].sigma + 0.2


@pytest.mark.parametrize("steps", [1, 4, 30])
@pytest.mark.parametrize("name", ["euler", "unipc"])
def test_even_spacing_is_that_of_wans_own_code(name, steps):
    """Source: get_sampling_sigmas in wan/utils/fm_solvers.py of Wan 2.1 and 2.2."""
    levels = [7 * t / (1 + 6 * t) for t in ((steps - k) / steps for k in range(steps))]
    made = schedule.make(SchedulerModel(WAN), steps=steps, shift=7.0, scheduler=name, spacing="even")
    assert [s.sigma for s in made] == pytest.approx(levels, abs=2e-6)
    assert [s.timestep for s in made] == pytest.approx(
        [1000 * level for level in levels], abs=2e-3 if name == "euler" else 1.0
    )  # UniPC's are whole numbers


def test_even_spacing_keeps_a_shift_by_size():
    config = EULER | {"use_dynamic_shifting": True}
    model: Any = SchedulerModel(config)
    model.config = lambda part: {}
    latents = Latents(torch.zeros(1), "wan", Size(512, 256, 1))
    made = schedule.make(model, steps=4, latents=latents, spacing="even")
    model.scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25], mu=made.arguments["mu"])
    assert [s.sigma for s in made] == model.scheduler.sigmas[:-1].tolist()


def test_the_last_level_can_be_set_or_left():
    stretched, plain = EULER | {"shift_terminal": 0.02}, schedule.make(SchedulerModel(EULER), steps=6)
    assert schedule.make(SchedulerModel(stretched), steps=6).steps[-1].sigma == pytest.approx(0.02)
    made = schedule.make(SchedulerModel(stretched), steps=6, terminal=0.0)
    assert [s.sigma for s in made] == [s.sigma for s in plain]
    for config in (EULER, stretched):
        assert schedule.make(SchedulerModel(config), steps=6, terminal=0.1).steps[-1].sigma == pytest.approx(0.1)


@pytest.mark.parametrize("name", ["dpm++", "deis"])
@pytest.mark.parametrize(("parameter", "value"), [("spacing", "even"), ("terminal", 0.1)])
def test_solvers_that_make_their_own_levels_take_none(name, parameter, value):
    with pytest.raises(NodeError, match=f"makes its own noise levels, and has no `{parameter}`"):
        schedule.make(SchedulerModel(WAN), steps=4, scheduler=name, **{parameter: value})
    known = {"model": {"family": "wan", "configs": {"scheduler": WAN}}, "steps": 4, "scheduler": name, "shift": None}
    (problem,) = node_facts.check(schedule.make, **known, **{parameter: value})
    assert (problem.code, problem.parameter) == ("unsupported", parameter)
    assert not list(node_facts.check(schedule.make, **(known | {"scheduler": "unipc"}), **{parameter: value}))


@pytest.mark.parametrize(("name", "entry"), [("FlowMatchEuler", "shift"), ("UniPCMultistep", "flow_shift")])
def test_a_shift_counts_for_a_repository_that_has_none(name, entry):
    """diffusers drops entries that the repository's file does not have."""
    flow = FLOW if name == "UniPCMultistep" else {}
    config = {"_class_name": f"{name}DiscreteScheduler".replace("MultistepDiscrete", "Multistep"), **flow}
    made = schedule.make(SchedulerModel(config), steps=4, shift=5.0)
    assert [s.sigma for s in made] == [s.sigma for s in schedule.make(SchedulerModel(config | {entry: 5.0}), steps=4)]
    assert made.steps[1].sigma > schedule.make(SchedulerModel(config), steps=4).steps[1].sigma + 0.1


def test_a_shift_by_size_equals_that_of_the_flux_pipeline():
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    model: Any = SchedulerModel(EULER | {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15})
    model.config = lambda part: {}
    with pytest.raises(NodeError, match="depend on the image's width"):
        schedule.make(model, steps=4)
    config = EULER | {"use_dynamic_shifting": True}
    known = {"model": {"configs": {"scheduler": config}}, "steps": 4, "scheduler": "auto", "shift": None}
    (problem,) = node_facts.check(schedule.make, **known, latents=None)
    assert (problem.code, problem.parameter) == ("missing-parameter", "latents")
    assert not list(node_facts.check(schedule.make, **known))  # wired, but unknown before the run
    assert not list(node_facts.check(schedule.make, **(known | {"shift": 2.0}), latents=None))
    latents = Latents(torch.zeros(1), "wan", Size(512, 256, 1))
    made = schedule.make(model, steps=4, latents=latents)
    assert made.arguments["mu"] == calculate_shift(512 // 16 * (256 // 16))
    model.scheduler.set_timesteps(4, mu=made.arguments["mu"])
    assert [s.sigma for s in made] == model.scheduler.sigmas[:-1].tolist()
    # A given shift has priority and needs no size.
    plain = schedule.make(SchedulerModel(EULER), steps=4, shift=2.0)
    assert [s.sigma for s in schedule.make(model, steps=4, shift=2.0)] == [s.sigma for s in plain]


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"_class_name": "FlowMatchHeunDiscreteScheduler"}, "twice per step"),
        ({"_class_name": "FlowMatchLCMScheduler"}, "fresh noise"),
        (EULER | {"stochastic_sampling": True}, "fresh noise"),
        ({"_class_name": "DDIMScheduler"}, "not for flow matching"),
    ],
)
def test_schedulers_that_cannot_drive_a_loop_are_refused(config, reason):
    with pytest.raises(NodeError, match=reason):
        schedule.make(SchedulerModel(config), steps=4)
    known = {
        "model": {"family": "wan", "configs": {"scheduler": config}},
        "steps": 4,
        "scheduler": "auto",
        "shift": None,
    }
    (problem,) = node_facts.check(schedule.make, **known)
    assert (problem.code, problem.parameter) == ("unsupported", "scheduler")
    assert reason in problem.message


def test_a_schedule_is_described_by_steps_scheduler_and_shift():
    known = {"model": {"family": "wan", "configs": {"scheduler": WAN}}, "steps": 30, "shift": None}
    assert node_facts.describe(schedule.make, **known, scheduler="auto") == {
        "steps": 30,
        "scheduler": "UniPCMultistepScheduler",
        "shift": 3.0,
    }
    assert node_facts.describe(schedule.make, **known, scheduler="euler")["shift"] == 3.0
    assert node_facts.describe(schedule.make, steps=30, scheduler="auto", shift=None) == {"steps": 30}
    assert node_facts.describe(schedule.make, scheduler="auto", shift=None) == {}


def drive(made, tensor, state, turns=None):
    for one in list(made)[:turns]:
        velocity = Velocity(torch.sin(tensor.tensor * (1 + one.sigma)))
        tensor = schedule.step(made, one, tensor, velocity, state)
    return tensor.tensor


def start():
    return Latents(torch.randn(1, 2, 1, 4, 4, generator=torch.Generator().manual_seed(0)), "wan", Size(8, 8))


@pytest.mark.parametrize("name", ["unipc", "dpm++", "deis"])
def test_history_does_not_leak_between_runs_of_a_loop(name):
    made = schedule.make(SchedulerModel(WAN), steps=6, scheduler=name)
    alone = drive(made, start(), SchedulerState())
    drive(made, start(), SchedulerState(), turns=3)  # an interrupted run
    assert torch.equal(alone, drive(made, start(), SchedulerState()))


def test_interleaved_runs_have_separate_histories():
    """Two loops of one graph may run over one schedule."""
    made = schedule.make(SchedulerModel(WAN), steps=5)
    alone = drive(made, start(), SchedulerState())
    states, tensors = [SchedulerState(), SchedulerState()], [start(), start()]
    for one in made:
        for i in range(2):
            velocity = Velocity(torch.sin(tensors[i].tensor * (1 + one.sigma)))
            tensors[i] = schedule.step(made, one, tensors[i], velocity, states[i])
    assert torch.equal(tensors[0].tensor, alone)
    assert torch.equal(tensors[1].tensor, alone)


def test_steps_out_of_order_are_refused():
    made = schedule.make(SchedulerModel(WAN), steps=5)
    state, one = SchedulerState(), start()
    schedule.step(made, made.steps[0], one, Velocity(one.tensor), state)
    with pytest.raises(NodeError, match="step 3 ran instead of step 1"):
        schedule.step(made, made.steps[3], one, Velocity(one.tensor), state)


def test_equal_timesteps_are_separate_steps():
    """With a large shift, rounded timesteps repeat, and a search by timestep finds the wrong step."""
    import diffusers

    made = schedule.make(SchedulerModel(WAN), steps=8, shift=500.0)
    assert made.steps[0].timestep == made.steps[1].timestep
    own = diffusers.UniPCMultistepScheduler(**FLOW, flow_shift=500.0)
    own.set_timesteps(8)
    own.set_begin_index(0)
    expected = start().tensor
    for timestep, one in zip(own.timesteps, made, strict=True):
        expected = own.step(torch.sin(expected * (1 + one.sigma)), timestep, expected).prev_sample
    assert torch.equal(drive(made, start(), SchedulerState()), expected)


def test_another_schedule_starts_with_an_empty_history():
    first, second = (schedule.make(SchedulerModel(WAN), steps=3, scheduler=name) for name in ("unipc", "dpm++"))
    state = SchedulerState()
    drive(first, start(), state)
    assert torch.equal(drive(second, start(), state), drive(second, start(), SchedulerState()))


def test_a_loop_can_start_at_a_later_step():
    """Image to image runs a loop over the last steps only."""
    made = schedule.make(SchedulerModel(EULER), steps=4)
    one = schedule.step(made, made.steps[2], start(), Velocity(torch.ones_like(start().tensor)), SchedulerState())
    expected = start().tensor + (made.steps[3].sigma - made.steps[2].sigma)
    assert torch.allclose(one.tensor, expected)


@pytest.mark.parametrize("name", ["unipc", "euler", "dpm++", "deis"])
def test_planning_steps_meta_tensors(name):
    model = SchedulerModel(WAN)
    model.device = "meta"
    made = schedule.make(model, steps=3, scheduler=name)
    assert made.steps[0].value.device.type == "cpu"  # noise levels are computed even when planning
    now, state = Latents(torch.empty(1, 2, 1, 4, 4, device="meta"), "wan", Size(8, 8)), SchedulerState()
    for one in made:
        now = schedule.step(made, one, now, Velocity(torch.empty(1, 2, 1, 4, 4, device="meta")), state)
    assert now.tensor.is_meta
    assert now.tensor.shape == (1, 2, 1, 4, 4)


def test_choose_compares_the_timestep_with_the_boundary():
    def chosen(timestep):
        one = Step(0, 1, timestep / 1000, timestep, None)
        return schedule.choose(one, boundary=0.875, above="high", below="low")

    assert [chosen(t) for t in (1000.0, 876.0, 875.0, 874.9, 0.0)] == ["high", "high", "high", "low", "low"]


def test_a_choice_has_the_facts_that_both_share():
    describe = partial(node_facts.describe, schedule.choose)
    assert describe(above={"family": "wan", "source": "a"}, below={"family": "wan", "source": "b"}) == {
        "family": "wan",
        "chosen": True,
    }
    assert describe(above=4.0, below=4.0) == 4.0
    assert describe(above=4.0, below=3.0) is None
    assert describe(above=4.0) is None


def test_problems_of_either_choice_are_found_before_the_run():
    """Gates and compiled transformers of both values are checked before the first step, in nested choices too."""
    from sgd.graph.contract.node import Here
    from sgd.nodes.cache.methods.scm import scm
    from sgd.nodes.denoiser import predict
    from sgd.nodes.models.nodes.model_compile import compile
    from sgd.nodes.models.nodes.model_expert import expert

    describe = partial(node_facts.describe, schedule.choose)
    short, many = ({"gate": scm(Here(name), mask="1100", front_blocks=n)} for name, n in (("a", 1), ("b", 9)))
    blocks = {"num_layers": 6}
    base = {
        "family": "wan",
        "components": {"transformer": "W", "transformer_2": "W"},
        "configs": {"transformer": blocks, "transformer_2": blocks},
    }

    def found(model, gate):
        return [p.message for p in node_facts.check(predict, model=model, gate=gate)]

    def whole(model, component="transformer"):
        return node_facts.describe(compile, model=model, component=component, region="whole")

    second = node_facts.describe(expert, model=base, component="transformer_2")
    thrice = describe(above=short, below=describe(above=short, below=many))
    assert [gate.name for gate in thrice["gates"]] == ["a", "a", "b"]
    [message] = found(base, thrice)
    assert "9 first" in message
    assert found(base, describe(above=short, below=short)) == []
    for below in (
        whole(second),
        node_facts.describe(expert, model=whole(base, "transformer_2"), component="transformer_2"),
    ):
        chosen = describe(above=base, below=below)
        assert ["compiled as a whole" in message for message in found(chosen, short)] == [True]
        assert ["compiled as a whole" in message for message in found(describe(above=chosen, below=base), short)] == [
            True
        ]
        assert ["compiled as a whole" in message for message in found(below, short)] == [True]
    assert found(whole(base, "transformer_2"), short) == []  # transformer_2 does not run
    assert found(describe(above=base, below=second), short) == []
