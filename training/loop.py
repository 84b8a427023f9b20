"""Code that both training stages share: a time budget, two optimisers, averaged weights, checkpoints.

A stage lasts a given number of minutes, not steps: the learning rate is a function of the share of
the budget that is spent, and falls to zero at its end. Time before the first step has ended
(compilation) does not count. Everything needed to go on after a kill is in one checkpoint file.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from muon import Muon
from torch import Tensor


class Compiled:
    """A compiled function on GPUs; plain when compilation fails or on other devices."""

    broken = False  # for all of them: set once the first step of a stage has failed

    def __init__(self, function: Callable[..., Any], device: torch.device) -> None:
        self.plain = function
        self.fast = torch.compile(function, dynamic=False) if device.type == "cuda" else function

    def __call__(self, *args: Any) -> Any:
        return (self.plain if Compiled.broken else self.fast)(*args)


class Loop:
    """Optimises `module` for `minutes`, and keeps an average of its weights in `average`."""

    def __init__(
        self,
        name: str,
        module: torch.nn.Module,
        matrices: Callable[[str, Tensor], bool],
        *,
        minutes: float,
        rate: float,
        folder: Path,
        device: torch.device,
        seed: int,
        decay_share: float = 0.6,
        average_decay: float = 0.999,
        weight_decay: float = 0.0,
    ) -> None:
        self.name, self.module, self.device = name, module, device
        self.budget, self.rate, self.decay_share = minutes * 60, rate, decay_share
        self.average_decay = average_decay
        self.file = folder / f"{name}.pt"
        named: list[tuple[str, Tensor]] = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
        large = [p for n, p in named if matrices(n, p)]
        self.small = [p for n, p in named if not matrices(n, p)]
        fused = device.type == "cuda"
        self.optimisers: list[torch.optim.Optimizer] = [
            Muon(large, lr=rate, weight_decay=weight_decay),
            torch.optim.AdamW(self.small, lr=rate, betas=(0.9, 0.98), weight_decay=0.0, fused=fused),
        ]
        self.average = copy.deepcopy(module).eval().requires_grad_(False)
        averaged: dict[str, Tensor] = dict(self.average.named_parameters())
        self._current, self._averaged = [p for _, p in named], [averaged[n] for n, _ in named]
        self.generator = torch.Generator().manual_seed(seed)  # draws clips, on the CPU
        self.steps, self.elapsed = 0, 0.0
        self._mark: float | None = None
        self._saved = time.monotonic()
        self._mean_loss = 0.0
        if device.type == "cuda":
            torch.cuda.manual_seed(seed)
        else:
            torch.manual_seed(seed)
        if self.file.exists():
            self._load()

    def share(self) -> float:
        """Share of the budget that is spent."""
        return min(1.0, self.elapsed / self.budget) if self.budget > 0 else 1.0

    def running(self) -> bool:
        return self.elapsed < self.budget

    def autocast(self) -> Any:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    def attempt(self, step_loss: Callable[[], Tensor]) -> Tensor:
        """Loss and gradients; the very first time, a failing compiler is given up for plain code."""
        try:
            loss = step_loss()
            loss.backward()
            return loss
        except Exception as error:
            if self.steps or Compiled.broken or self.device.type != "cuda":
                raise
            print(f"{self.name}: compilation failed, going on without: {str(error)[-800:]}", flush=True)
            Compiled.broken = True
            self.module.zero_grad(set_to_none=True)
            return self.attempt(step_loss)

    def step(self, step_loss: Callable[[], Tensor]) -> bool:
        """One step; returns True every fiftieth time, after which `mean_loss` is fresh."""
        share = self.share()
        rate = self.rate * min(1.0, (self.steps + 1) / 100) * min(1.0, (1 - share) / self.decay_share)
        for optimiser, factor in zip(self.optimisers, (1.0, 0.5), strict=True):
            for group in optimiser.param_groups:
                group["lr"] = rate * factor
        loss = self.attempt(step_loss)
        torch.nn.utils.clip_grad_norm_(self.small, 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
        self.module.zero_grad(set_to_none=True)
        self.steps += 1
        keep = min(self.average_decay, (1 + self.steps) / (10 + self.steps))
        with torch.no_grad():
            torch._foreach_lerp_(self._averaged, self._current, 1 - keep)
        report = self.steps % 50 == 0
        if report or self._mark is None or self.device.type == "cpu":
            value = loss.item()  # waits for the device, which keeps the clock honest
            self._mean_loss = 0.8 * self._mean_loss + 0.2 * value if self._mean_loss else value
        now = time.monotonic()
        if self._mark is not None:
            self.elapsed += now - self._mark
        self._mark = now
        return report

    def line(self) -> str:
        rate = self.steps / max(self.elapsed, 1e-9)
        return (
            f"{self.name} step {self.steps}: loss {self._mean_loss:.4f}, "
            f"{self.elapsed / 60:.2f} of {self.budget / 60:.2f} min, {rate:.1f} steps/s"
        )

    def pause(self) -> None:
        """Leave the time from now to the next step's end out of the budget."""
        self._mark = None

    def save(self, every: float = 0.0) -> bool:
        """Write the checkpoint unless the last one is younger than `every` seconds."""
        if time.monotonic() - self._saved < every:
            return False
        data = {
            "module": self.module.state_dict(),
            "average": self.average.state_dict(),
            "optimisers": [o.state_dict() for o in self.optimisers],
            "generator": self.generator.get_state(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state() if self.device.type == "cuda" else None,
            "steps": self.steps,
            "elapsed": self.elapsed,
        }
        self.file.parent.mkdir(parents=True, exist_ok=True)
        partial = self.file.with_suffix(".partial")
        torch.save(data, partial)
        partial.replace(self.file)  # a kill in between leaves the older checkpoint whole
        self._saved = time.monotonic()
        return True

    def _load(self) -> None:
        data = torch.load(self.file, map_location=self.device, weights_only=True)
        self.module.load_state_dict(data["module"])
        self.average.load_state_dict(data["average"])
        for optimiser, state in zip(self.optimisers, data["optimisers"], strict=True):
            optimiser.load_state_dict(state)
        self.generator.set_state(data["generator"].cpu())
        torch.set_rng_state(data["rng"].cpu())
        if data["cuda_rng"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(data["cuda_rng"].cpu())
        self.steps, self.elapsed = data["steps"], data["elapsed"]
        print(f"{self.name}: resumed at step {self.steps}, {self.elapsed / 60:.2f} min", flush=True)
