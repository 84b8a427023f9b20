"""Collect the measurements of `sgd calibrate` from denoising runs, and fit the tables for cache gates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from typing import Any

from ....graph.contract.errors import NodeError
from ....graph.contract.events import CallInfo, Observer
from ....graph.contract.text_tables import columns
from ...values import Schedule
from ..gate import Gate, Limits, Signal
from ..methods.magcache import RETENTION
from . import fit
from .table import VERSION

SIGNALS: tuple[Signal, ...] = ("time", "time_projection", "modulated")


@dataclass
class Measured:
    """The measurements of one component: its identity, the number of loops, and rows of (branch, step, values)."""

    facts: Mapping[str, Any]
    loops: int = 0
    rows: list[tuple[str, int, Mapping[str, float]]] = field(default_factory=list)

    def of(self, name: str, branch: str | None = None) -> list[tuple[int, float]]:
        """The steps and values of one kind of measurement, for one branch or for all branches."""
        return [(i, values[name]) for b, i, values in self.rows if name in values and branch in (None, b)]


class Measurements(Observer):
    """Observes the runs of a calibration.

    Args:
        order: Order of the polynomials.

    Attributes:
        nodes: Names of the node types that measure.
        options: Values of `Run.options` with which these nodes measure.
    """

    nodes = frozenset({"denoiser.predict"})
    options: Mapping[str, Any] = {"calibrate": True}

    def __init__(self, order: int) -> None:
        self.order = order
        self.components: dict[str, Measured] = {}
        self.schedules: dict[tuple[str, tuple[float, ...]], Schedule] = {}
        self.others: set[str] = set()

    def event(self, call: CallInfo | None, kind: str, data: Mapping[str, Any]) -> None:
        if kind == "measured":
            name, mine = data["use"]["component"], dict(data)
            component = self.components.setdefault(name, Measured(mine))
            component.loops += 1
            known = component.facts
            first = next(iter(self.components.values())).facts
            if known["use"] != mine["use"] or any(first[k] != mine[k] for k in ("schedule", "model", "size")):
                self.others.add(str(mine["model"]["source"]))
        elif kind == "measurement":
            component = self.components[data["component"]]
            component.rows.append((data["branch"], data["index"], data["values"]))

    def node_finished(self, call: CallInfo, seconds: float, outputs: Mapping[str, Any]) -> None:
        for value in outputs.values():
            if isinstance(value, Schedule) and value.steps:
                self.schedules[value.scheduler, value.steps[0].schedule] = value

    def check(self) -> None:
        """Check that the measurements are enough for a table.

        Raises:
            NodeError: If nothing was measured, there was only one step, or several models, schedules or sizes were
                measured.
        """
        if not self.components:
            raise NodeError("nothing was measured: no step was computed")
        if all(len(found.facts["use"]["timesteps"] or ()) < 2 for found in self.components.values()):
            raise NodeError("one step gives no change to measure", help="take more steps")
        if self.others:
            first = next(iter(self.components.values())).facts
            message = f"the workflow denoises with {first['model']['source']} and then with another model, schedule, "
            help = "a table is for one model and schedule: calibrate a workflow with one denoise loop"
            raise NodeError(f"{message}size or LoRA ({', '.join(sorted(self.others))})", help=help)

    def table(self, prompts: Sequence[str], made: Mapping[str, Any]) -> dict[str, Any]:
        """Fit the measurements, and return the content of the table's file; see `table.Table`.

        Args:
            prompts: The texts of the prompts.
            made: Further facts about the runs.
        """
        self.check()
        facts = next(iter(self.components.values())).facts
        return {
            "sgd_table": VERSION,
            "made": {
                **{library: version(library) for library in ("sgd", "torch", "diffusers")},
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
                **made,
            },
            "model": dict(facts["model"]),
            "size": facts["size"],
            "schedule": self._schedule(facts),
            "prompts": self._prompts(prompts),
            "components": {name: self._component(measured) for name, measured in sorted(self.components.items())},
        }

    def _prompts(self, texts: Sequence[str]) -> dict[str, Any]:
        joined = "".join(f"{text}\n" for text in texts).encode()
        first = next(iter(self.components.values()))
        return {
            "count": len(texts) or None,
            "sha256": sha256(joined).hexdigest() if texts else None,
            "texts": list(texts),
            "loops": first.loops,
        }

    def _schedule(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        name, timesteps = facts["use"]["scheduler"], facts["schedule"]
        made = self.schedules[name, timesteps]
        config = {key: plain(value) for key, value in made.config.items() if not key.startswith("_")}
        shift = None if config.get("use_dynamic_shifting") else config.get("shift", config.get("flow_shift", 1.0))
        arguments = {key: plain(value) for key, value in made.arguments.items()}
        return {"scheduler": name, "shift": shift, "steps": len(timesteps), "config": config, "arguments": arguments}

    def _component(self, measured: Measured) -> dict[str, Any]:
        use, rows = measured.facts["use"], measured.rows
        steps = len(use["timesteps"])
        kinds = [kind for kind in (*SIGNALS, "residual", "output") if measured.of(kind)]
        output = [value for _, value in measured.of("output")]
        fits = {
            signal: fit.polynomial([value for _, value in measured.of(signal)], output, self.order)
            for signal in SIGNALS
            if signal in kinds
        }
        return {
            "class_name": use["class_name"],
            "config": use["config"],
            "weights": use["weights"],
            "dtype": measured.facts["dtype"],
            "adapters": list(use["adapters"]),
            "timesteps": list(use["timesteps"]),
            "polynomials": {signal: found for signal, found in fits.items() if found is not None},
            "branches": {
                branch: {
                    "ratios": fit.means(measured.of("ratio", branch), steps),
                    "changes": {kind: fit.means(measured.of(kind, branch), steps) for kind in kinds},
                }
                for branch in dict.fromkeys(branch for branch, _, _ in rows)
            },
        }

    def summary(self, table: Mapping[str, Any]) -> str:
        """The table as text for the terminal: the quality of the fits, and the effect of some thresholds."""
        return "\n".join(line for name, part in table["components"].items() for line in _lines(name, part, self.order))


def _lines(name: str, part: Mapping[str, Any], order: int) -> list[str]:
    steps, branches = len(part["timesteps"]), part["branches"]
    lines = [f"{name} ({part['class_name']}): {steps} steps, {', '.join(branches)}"]
    rows = [["polynomial of", "R²", "RMS", "points", "changes"]]
    for signal, found in part["polynomials"].items():
        r2 = "-" if found["r2"] is None else f"{found['r2']:.3f}"
        span = f"{found['least']:.3g} to {found['most']:.3g}"
        rows.append([signal, r2, f"{found['rms']:.3g}", str(found["points"]), span])
    lines += [f"  {line}" for line in columns(rows, right=(1, 2, 3))] if len(rows) > 1 else []
    measured = next(iter(branches.values()))["changes"]
    for signal in (s for s in SIGNALS if s in measured and s not in part["polynomials"]):
        lines.append(f"  no polynomial of {signal}: too few different changes for order {order}; take more steps")
    rows = [["ratios of", "least", "most"]]
    for branch, found in branches.items():
        ratios = [ratio for ratio in found["ratios"] if ratio is not None]
        rows += [[branch, f"{min(ratios):.4f}", f"{max(ratios):.4f}"]] if ratios else []
    lines += [f"  {line}" for line in columns(rows, right=(1, 2))] if len(rows) > 1 else []
    return lines + [f"  {line}" for line in _thresholds(part, steps)]


def _thresholds(part: Mapping[str, Any], steps: int) -> list[str]:
    """Write lines about the effect of some thresholds on the first branch, with the gates' default limits."""
    first = next(iter(part["branches"].values()))
    signal = next((s for s in SIGNALS if s in first["changes"]), None)
    lines = []
    if signal is not None and signal in part["polynomials"]:
        found = part["polynomials"][signal]
        coefficients, limits = tuple(found["coefficients"]), Limits(warmup_steps=1, last=True)
        gate = Gate("teacache", signal=signal, rule="polynomial", coefficients=coefficients, limits=limits)
        lines.append(_meaning("cache.teacache", fit.thresholds(gate, first["changes"][signal], steps), steps))
    ratios = {"positive": tuple(1.0 if ratio is None else ratio for ratio in first["ratios"])}
    gate = Gate("magcache", rule="magnitude", ratios=ratios, limits=Limits(warmup_share=RETENTION))
    lines.append(_meaning("cache.magcache", fit.thresholds(gate, None, steps), steps))
    return [line for line in lines if line]


def _meaning(gate: str, found: Mapping[float, int], steps: int) -> str:
    parts = ", ".join(f"{threshold:g} computes {count}" for threshold, count in found.items())
    return f"{gate}: of {steps} steps, a threshold of {parts}" if parts else ""


def plain(value: Any) -> Any:
    """A setting of a scheduler as plain data for JSON. Numbers of numpy become numbers of Python."""
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if hasattr(value, "tolist"):
        return value.tolist()
    return value if isinstance(value, str | int | float | bool | type(None)) else str(value)
