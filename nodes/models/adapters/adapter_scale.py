"""The factor of an adapter, `alpha / rank`, and the metadata of a file that affect it. Torch-free.

diffusers and peft keep `lora_alpha`, `alpha_pattern` and `use_rslora` in the metadata, as one JSON object; other
trainers keep an `alpha` beside the tensors of each layer. LyCORIS has already applied its `rs_lora` to the `alpha` in
the file.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .adapter_names import without_prefixes

LONGEST = 200
"""Largest length of a pattern that is used as a regular expression. Matching a longer pattern may be slow.
"""

MAIN = "transformer"
"""The prefix of each setting in the metadata that diffusers writes."""

REPEATS = 2
"""Largest number of unlimited repetitions in a pattern. Matching a pattern with more may be slow."""


@dataclass(frozen=True)
class ScaleRule:
    """The rule for the factors of a file's adapters, from the file's metadata.

    Attributes:
        alpha: Alpha of every layer that has no alpha of its own. None stands for the rank, with which the factor is 1.
        patterns: Alpha by pattern of a layer's name, as peft writes them.
        root: Divide the alpha of a LoRA by the square root of its rank (rslora).
    """

    alpha: float | None = None
    patterns: Mapping[str, float] = field(default_factory=dict)
    root: bool = False

    def factor(self, stem: str, form: str, rank: int | None, alpha: float | None) -> float:
        """The factor of one adapter.

        Args:
            stem: The layer, as the file names it.
            form: Form of the adapter.
            rank: Rank of the adapter; None for a form without a rank, whose factor is 1.
            alpha: Alpha of the layer in the file; None if the file has no alpha for it.
        """
        if rank is None:
            return 1.0
        if alpha is None:
            alpha = self._of(stem)
        return (rank if alpha is None else alpha) / (math.sqrt(rank) if self.root and form == "lora" else rank)

    def _of(self, stem: str) -> float | None:
        for pattern, alpha in self.patterns.items():
            if any(_named(pattern, name) for name in without_prefixes(stem)):
                return alpha
        return self.alpha


def of_metadata(metadata: Mapping[str, str], component: str) -> ScaleRule:
    """Read the rule for the adapters of a component from a file's metadata.

    Values of a wrong type are ignored.
    """
    known: dict[str, Any] = dict(metadata)
    for text in metadata.values():
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(content, dict) and _has(content, component):
            known |= content
    for prefix in (MAIN, component):  # most files for a second transformer have the name of the first
        known |= {k.removeprefix(f"{prefix}."): v for k, v in known.items() if k.startswith(f"{prefix}.")}
    patterns = known.get("alpha_pattern")
    return ScaleRule(
        alpha=_number(known.get("lora_alpha")),
        patterns={
            str(pattern): number
            for pattern, value in (patterns.items() if isinstance(patterns, dict) else ())
            if (number := _number(value)) is not None
        },
        root=any(str(known.get(key)).lower() in ("true", "1") for key in ("use_rslora", "rslora")),
    )


def _has(content: Mapping[str, Any], component: str) -> bool:
    names = {key.removeprefix(f"{MAIN}.").removeprefix(f"{component}.") for key in content}
    return bool(names & {"lora_alpha", "alpha_pattern", "use_rslora"})


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _named(pattern: str, name: str) -> bool:
    """Whether a pattern matches a layer. As in peft, it is a regular expression for the end of the layer's name."""
    plain = pattern.removeprefix("^").removesuffix("$").replace("\\.", ".")
    if name == plain or name.endswith(f".{plain}"):
        return True
    if len(name) > LONGEST or not readable(pattern):
        return False
    return re.match(rf"(.*\.)?({pattern})$", name) is not None


def readable(pattern: str) -> bool:
    """Whether a pattern is a valid regular expression that can be matched quickly."""
    if len(pattern) > LONGEST or len(re.findall(r"[*+}]", pattern)) > REPEATS or re.search(r"\)[*+?{]", pattern):
        return False
    try:
        re.compile(rf"(.*\.)?({pattern})$")
    except (re.error, RecursionError, OverflowError):
        return False
    return True
