"""MagCache's published ratios, as data (2506.09045).

magcache_ratios.json holds the ratios, from the repository Zehong-Ma/MagCache (Apache-2.0) at commit df81cb1, with the
file and line of each list. A ratio is the mean, over tokens, of the norm of the block stack's residual divided by that
of the step before. Each list has a ratio for every step, and the first is 1. Thresholds, longest runs and retention
come from the README's command for the model, or else from the script's defaults. diffusers 0.42 ships one of these
lists, FLUX.1-dev's, as `FLUX_MAG_RATIOS`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .checkpoints import Configs, checkpoints


@dataclass(frozen=True)
class Table:
    """The ratios of one checkpoint.

    Attributes:
        model: The checkpoint that the ratios were measured on.
        ratios: For each transformer, and each guidance branch that was measured ("positive", "negative"), one ratio for
            each step. Wan 2.2's two transformers share the steps of one run, and the MagCache repository has one list
            for both. Its ratio at the change of transformers compares the residuals of two models (about 0.65 and
            0.91). That ratio is left out here: the list of the second transformer starts with 1, as every list does.
        threshold: Threshold of the accumulated error.
        longest: Longest run of reused steps (K).
        retention: For each transformer, the share of its steps that are always computed, at the start. Their number is
            `steps * share`, rounded down. Wan 2.2's image-to-video model reuses nothing in its first transformer.
        always: Steps that the rule cannot reuse, as indices among the measured steps. FLUX.1-dev has one.
        pixels: Width times height of the measured clip, if the checkpoint has tables for several sizes; else None.
        image: Whether an image conditioned the measured model, if the checkpoint has one table with an image and one
            without; else None.
        source: File and line in the MagCache repository.
    """

    model: str
    ratios: Mapping[str, Mapping[str, tuple[float, ...]]]
    threshold: float
    longest: int
    retention: Mapping[str, float]
    always: tuple[int, ...]
    pixels: int | None
    image: bool | None
    source: str

    @property
    def steps(self) -> int:
        """Number of steps of the measured run, over all transformers."""
        return sum(len(branches["positive"]) for branches in self.ratios.values())

    def at(self, steps: int, component: str = "transformer", branch: str = "positive") -> tuple[float, ...]:
        """The ratios of one transformer and branch, for another number of steps of this transformer.

        Raises:
            KeyError: If there is no such transformer, or the branch was not measured.
        """
        return nearest(self.ratios[component][branch], steps)

    def forced(self, steps: int) -> tuple[int, ...]:
        """In a run with this many steps, the steps whose nearest measured step is in `always`."""
        return tuple(step for step, measured in enumerate(_indices(self.steps, steps)) if measured in self.always)


def nearest(ratios: Sequence[float], steps: int) -> tuple[float, ...]:
    """Convert a list of ratios to another number of steps.

    The first and the last ratio are kept. Step i of N takes the nearest of the n measured ratios, at the index i (n -
    1) / (N - 1), where halves are rounded to even. If N is 1, the step takes the last ratio. MagCache and diffusers
    interpolate in this way too. A ratio always compares neighbouring steps of the measured run, whatever N is.

    Raises:
        ValueError: If there is no ratio, or no step.
    """
    if not ratios or steps < 1:
        raise ValueError("at least one ratio and one step are needed")
    return tuple(ratios[index] for index in _indices(len(ratios), steps))


def _indices(measured: int, steps: int) -> list[int]:
    if steps == 1:
        return [measured - 1]
    # The division comes first, then the product, so that the result is rounded as in MagCache's own code.
    scale = (measured - 1) / (steps - 1)
    return [round(step * scale) for step in range(steps)]


@cache
def tables() -> tuple[Table, ...]:
    """Read all published tables."""
    entries = json.loads(Path(__file__).with_name("magcache_ratios.json").read_text(encoding="utf-8"))
    return tuple(
        Table(
            model=entry["model"],
            ratios={
                component: {branch: tuple(values) for branch, values in branches.items()}
                for component, branches in entry["ratios"].items()
            },
            threshold=entry["threshold"],
            longest=entry["longest"],
            retention=entry["retention"],
            always=tuple(entry.get("always", ())),
            pixels=entry.get("pixels"),
            image=entry.get("image"),
            source=entry["source"],
        )
        for entry in entries
    )


def published(family: str, configs: Configs, source: str | None = None) -> tuple[Table, ...]:
    """Find the tables published for a model. `checkpoints.py` identifies the model.

    Args:
        family: Name of the family.
        configs: The model's configurations: those of components by name, and "model_index".
        source: Folder or repository of the model.

    Returns:
        Several tables if they differ in `pixels` (`checkpoints.by_size` chooses one) or in `image`. An empty tuple if
        nothing was published, as for Z-Image and FLUX.1-schnell.
    """
    labels = checkpoints(family, configs, source)
    return tuple(table for table in tables() if table.model in labels)
