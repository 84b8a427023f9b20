"""A resumed run has the attention that `auto` had chosen, from its first call on."""

from __future__ import annotations

from typing import Any

import torch
from helpers.direct import DirectRun
from sgd.nodes.models.attention import tuning
from sgd.nodes.models.attention.tuning import Choice, Tuner


class Remembering(DirectRun):
    """A run that keeps choices."""

    def __init__(self, before: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.before, self.made = before or {}, dict[str, Any]()

    def choice(self, name: str) -> Any:
        return self.before.get(name)

    def chose(self, name: str, value: Any) -> None:
        self.made[name] = value


class View(torch.nn.Module):
    """A module without attention processors."""


def tuned(run: Remembering, monkeypatch: Any) -> list[str]:
    """The backends of two calls with one shape."""
    monkeypatch.setattr(tuning, "entrance", lambda view: type("Entrance", (), {"layers": []})())
    tuner = Tuner(View(), ("native", "_native_math"), run)
    used: list[str] = []
    monkeypatch.setattr(tuning, "choose", lambda view, backend: None)

    def call(x: torch.Tensor) -> torch.Tensor:
        used.append(tuner.now)
        return torch.nn.functional.scaled_dot_product_attention(x, x, x)

    for _ in range(2):
        tuner.around(call, torch.zeros(1, 2, 4, 8))
    return used


def test_the_first_call_of_a_resumed_run_has_the_chosen_backend(monkeypatch: Any) -> None:
    monkeypatch.setattr(
        tuning, "fastest", lambda candidates, shapes, run: Choice("_native_math", {"_native_math": 1e-3}, 0.1)
    )
    first = Remembering()
    assert tuned(first, monkeypatch) == ["native", "_native_math"]
    monkeypatch.setattr(tuning, "fastest", None)  # nothing is measured
    again = Remembering(first.made)
    assert tuned(again, monkeypatch) == ["_native_math", "_native_math"]
    assert again.made == first.made
