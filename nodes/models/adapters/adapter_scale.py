"""The factor of an adapter, `alpha / rank`, and the settings of a file that change it. Torch-free.

diffusers keeps `lora_alpha`, `alpha_pattern` and `use_rslora` in the metadata, as one JSON object; peft keeps them in
`adapter_config.json`; other trainers keep an `alpha` beside the tensors of each layer. LyCORIS' own `rs_lora` is part
of its `alpha` already.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .adapter_header import CONFIG, AdapterHeader
from .adapter_names import without_prefixes

LONGEST = 200
"""Largest length of a pattern that is used as a regular expression. Matching a longer pattern may be slow.
"""

MAIN = "transformer"
"""The prefix of each setting in the metadata that diffusers writes."""

PEFT_TYPES = ("LORA", "LOHA", "LOKR")
"""Forms of peft that are applied; others may have tensors of the same names."""

CHANGED_WEIGHTS = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Starts of a training that changes the model's own weights too (peft's `LoraConfig.init_lora_weights`)."""

REPEATS = 2
"""Largest number of unlimited repetitions in a pattern. Matching a pattern with more may be slow."""


@dataclass(frozen=True)
class ScaleRule:
    """The factors of the adapters of one file, as its settings have them.

    Attributes:
        alpha: Alpha of every layer that has no alpha of its own. None stands for the rank, with which the factor is 1.
        patterns: Alpha by pattern of a layer's name, as peft writes them.
        root: Divide the alpha of a LoRA by the square root of its rank (rslora).
        rank: Rank of a LoKr whose factors are whole; peft divides its alpha by it, other programs do not.
        ranks: This rank by pattern of a layer's name.
        faults: Settings that cannot be used, each as the end of a sentence about the file.
    """

    alpha: float | None = None
    patterns: Mapping[str, float] = field(default_factory=dict)
    root: bool = False
    rank: float | None = None
    ranks: Mapping[str, float] = field(default_factory=dict)
    faults: tuple[str, ...] = ()

    def factor(self, stem: str, form: str, rank: int | None, alpha: float | None) -> float:
        """The factor of one adapter.

        Args:
            stem: The layer, as the file names it.
            form: Form of the adapter.
            rank: Rank of the adapter; None for a form without a rank, whose factor is 1.
            alpha: Alpha of the layer in the file; None if the file has no alpha for it.
        """
        size: float | None = rank
        if size is None and form == "lokr":
            size = _of(stem, self.ranks, self.rank)
        if size is None:
            return 1.0
        if alpha is None:
            alpha = _of(stem, self.patterns, self.alpha)
        return (size if alpha is None else alpha) / (math.sqrt(size) if self.root and form == "lora" else size)


def _of(stem: str, patterns: Mapping[str, float], otherwise: float | None) -> float | None:
    """The number of the first pattern that a layer's name fits."""
    for pattern, number in patterns.items():
        if any(_named(pattern, name) for name in without_prefixes(stem)):
            return number
    return otherwise


def of_header(header: AdapterHeader, component: str) -> ScaleRule:
    """The rule of a file: that of its metadata, or of peft's configuration if the metadata has none."""
    found = of_metadata(header.metadata, component)
    return _of_config(header.config) if found == ScaleRule() and header.config else found


def _of_config(config: Mapping[str, Any]) -> ScaleRule:
    kind, start = str(config.get("peft_type", "LORA")).upper(), config.get("init_lora_weights")
    read = _Reader(CONFIG)
    if kind not in PEFT_TYPES:
        read.faults.append(f"is of the form {kind[:60]}, as {CONFIG} says, which cannot be applied")
    if isinstance(start, str) and start.lower().startswith(CHANGED_WEIGHTS):
        read.faults.append(f"is for other weights: {CONFIG} says that its training began with {start[:60]}")
    lora = kind == "LORA"
    return ScaleRule(
        alpha=read.number(config, "lora_alpha" if lora else "alpha"),
        patterns=read.numbers(config, "alpha_pattern"),
        root=config.get("use_rslora") is True,
        rank=None if lora else read.number(config, "r", least=1),
        ranks={} if lora else read.numbers(config, "rank_pattern", least=1),
        faults=tuple(read.faults),
    )


def of_metadata(metadata: Mapping[str, str], component: str) -> ScaleRule:
    """The rule that a file's metadata gives for the adapters of a component."""
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
    read = _Reader("its metadata")
    return ScaleRule(
        alpha=read.number(known, "lora_alpha"),
        patterns=read.numbers(known, "alpha_pattern"),
        root=any(str(known.get(key)).lower() in ("true", "1") for key in ("use_rslora", "rslora")),
        faults=tuple(read.faults),
    )


def _has(content: Mapping[str, Any], component: str) -> bool:
    names = {key.removeprefix(f"{MAIN}.").removeprefix(f"{component}.") for key in content}
    return bool(names & {"lora_alpha", "alpha_pattern", "use_rslora"})


class _Reader:
    """Reads settings and collects those that are no numbers.

    Attributes:
        source: The place of the settings, for messages.
        faults: One sentence for each setting that cannot be used.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.faults: list[str] = []

    def number(self, settings: Mapping[str, Any], name: str, least: float = -math.inf) -> float | None:
        value = settings.get(name)
        return None if value is None else self._number(name, value, least)

    def numbers(self, settings: Mapping[str, Any], name: str, least: float = -math.inf) -> dict[str, float]:
        """A setting with one number for each pattern of a layer's name."""
        values = settings.get(name)
        if values is None:
            return {}
        if not isinstance(values, dict):
            self._fault(name, values)
            return {}
        pairs = [(str(pattern), self._number(name, value, least)) for pattern, value in values.items()]
        return {pattern: number for pattern, number in pairs if number is not None}

    def _number(self, name: str, value: Any, least: float) -> float | None:
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number) and number >= least:
            return number
        self._fault(name, value)
        return None

    def _fault(self, name: str, value: Any) -> None:
        self.faults.append(f"cannot be scaled: {self.source} has {name} {str(value)[:60]!r}")


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
