"""`Comparison`: everything that differs between two runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...contract.node_library import NodeLibrary
from .changed_facts import Change, ChangedFiles, changed_files, changes, run_environment, used_files
from .compared_run import ComparedRun
from .node_times import NodePair, TimePair, node_pairs, phase_pairs, totals
from .output_pairs import OutputPair, Progress, output_pairs


@dataclass(frozen=True)
class Comparison:
    """Two runs, compared.

    Attributes:
        before: The first run.
        after: The second run.
        files: The difference of the workflow files.
        inputs: Inputs with two values.
        settings: Parameters that were set to two values.
        used: Files that were read and whose bytes differ, as far as they are recorded.
        environment: Versions, devices and options that differ.
        nodes: Times of nodes.
        phases: Times of phases.
        totals: Times of running nodes and of the whole.
        outputs: Outputs beside each other.
    """

    before: ComparedRun
    after: ComparedRun
    files: ChangedFiles
    inputs: tuple[Change, ...]
    settings: tuple[Change, ...]
    used: tuple[Change, ...]
    environment: tuple[Change, ...]
    nodes: tuple[NodePair, ...]
    phases: tuple[TimePair, ...]
    totals: Mapping[str, TimePair]
    outputs: tuple[OutputPair, ...]

    @property
    def time_notes(self) -> list[str]:
        """Why times cannot be compared: a run did not do all its work itself; empty if both did."""
        sides = (("first", self.before), ("second", self.after))
        return [
            f"the {side} run {part}; run it whole, with --store off"
            for side, run in sides
            for part in run.not_its_own()
        ]

    def json(self) -> dict[str, Any]:
        """The comparison as plain data, for `sgd diff --json`."""

        def times(pairs: Iterable[TimePair]) -> list[dict[str, Any]]:
            return [{**asdict(pair), "ratio": pair.ratio} for pair in pairs]

        return {
            "runs": [
                {
                    "run": run.name,
                    "workflow": run.record.workflow.name,
                    "status": run.record.status,
                    "seconds": run.record.seconds,
                    "peak_bytes": run.record.peak_bytes,
                }
                for run in (self.before, self.after)
            ],
            "files": asdict(self.files),
            "inputs": [asdict(each) for each in self.inputs],
            "set": [asdict(each) for each in self.settings],
            "used_files": [asdict(each) for each in self.used],
            "environment": [asdict(each) for each in self.environment],
            "nodes": times(self.nodes),
            "phases": times(self.phases),
            "totals": times(self.totals.values()),
            "time_notes": self.time_notes,
            "outputs": [each.json() for each in self.outputs],
        }


def compare_runs(
    before: ComparedRun,
    after: ComparedRun,
    libraries: Iterable[NodeLibrary],
    progress: Progress,
    network: Path | None = None,
) -> Comparison:
    """Compare two runs.

    Args:
        before: The first run.
        after: The second run.
        libraries: Node libraries, which compare pixels.
        progress: Receives the number of compared frames of an output.
        network: The file with the network of LPIPS; None without LPIPS.

    Raises:
        UnfitNetwork: If `network` cannot be read, or is of no known kind.
    """
    return Comparison(
        before,
        after,
        changed_files(before.recipe, after.recipe, before.record.workflow.sha256 == after.record.workflow.sha256),
        changes(before.record.inputs, after.record.inputs),
        changes(before.record.set, after.record.set),
        changes(used_files(before.recipe), used_files(after.recipe), quoted=False),
        changes(run_environment(before), run_environment(after), quoted=False),
        node_pairs(before, after),
        phase_pairs(before, after),
        totals(before, after),
        output_pairs(before, after, libraries, progress, network=network),
    )
