"""Gates of every method, with thresholds at which two clips of different prompts decide differently."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sgd.graph.contract.node import Here
from sgd.nodes.cache.methods.cache_dit_options import library
from sgd.nodes.cache.methods.custom_gate import gate as custom
from sgd.nodes.cache.methods.dbcache import dbcache
from sgd.nodes.cache.methods.easycache import easycache
from sgd.nodes.cache.methods.fora import fora
from sgd.nodes.cache.methods.magcache import magcache
from sgd.nodes.cache.methods.scm import scm
from sgd.nodes.cache.methods.taylorseer import taylorseer
from sgd.nodes.cache.methods.teacache import teacache

from helpers.gate_pipelines import PROMPT, STEPS

HERE = Here("gate")
LONG = (
    "two small blue squares and a very large green triangle rotate slowly on a white table while the wind moves trees"
)
PROMPTS = (PROMPT, LONG)
"""The second has more tokens, and the negative prompt fewer: a batch pads where the family pads."""
SEEDS = (3, 8)
LINEAR = [1.0, 0.0]
RATIOS = {
    "positive": (1.0, *(0.99 - 0.02 * ((index * 7) % 5) for index in range(STEPS - 1))),
    "negative": (1.0, *(0.98 - 0.02 * ((index * 3) % 4) for index in range(STEPS - 1))),
}
MEASURED = ("dbcache", "taylorseer", "scm dynamic", "teacache", "easycache", "gate")
APART = {
    "wan": dict(zip(MEASURED, (0.08, 0.08, 0.08, 0.18, 0.4, 0.128), strict=True)),
    "hunyuan-video": dict(zip(MEASURED, (0.35, 0.35, 0.28, 0.096, 0.25, 0.7), strict=True)),
    "flux": dict(zip(MEASURED, (0.315, 0.315, 0.315, 0.15, 0.22, 0.504), strict=True)),
    "qwen-image": dict(zip(MEASURED, (0.456, 0.456, 0.456, 0.06, 0.2, 0.76), strict=True)),
    "z-image": dict(zip(MEASURED, (0.6, 0.6, 0.6, 0.12, 0.8, 1.2), strict=True)),
}
"""Thresholds with which the two clips decide differently in some branch, found by trial."""


def made(family: str, method: str) -> Any:
    """A gate of a method."""
    threshold = APART[family].get(method, 0.0)
    if method == "gate":
        parts: dict[str, Any] = {"order": 1, "front_blocks": 1, "back_blocks": 1, "max_consecutive": 3, "last": True}
        return custom(HERE, signal="front", rule="polynomial", coefficients=LINEAR, threshold=threshold, **parts)
    if method == "magcache":
        gate = magcache(HERE, ratios=list(RATIOS["positive"]), threshold=0.1, max_consecutive=3, order=1)
        return replace(gate, ratios=RATIOS)
    gates = {
        "dbcache": lambda: dbcache(HERE, threshold=threshold, warmup_steps=3),
        "taylorseer": lambda: taylorseer(HERE, order=2, threshold=threshold, warmup_steps=4, back_blocks=1),
        "scm dynamic": lambda: scm(HERE, preset="fast", policy="dynamic", threshold=threshold),
        "teacache": lambda: teacache(HERE, coefficients=LINEAR, threshold=threshold, signal="modulated"),
        "time": lambda: teacache(HERE, coefficients=LINEAR, threshold=2.0, signal="time"),
        "easycache": lambda: easycache(HERE, threshold=threshold, warmup_steps=2),
        "scm": lambda: scm(HERE, preset="fast", order=1),
        "fora": lambda: fora(HERE, every=3),
        "library": lambda: library(
            HERE, Fn_compute_blocks=1, max_warmup_steps=3, residual_diff_threshold=APART[family]["dbcache"]
        ),
        "separate": lambda: taylorseer(
            HERE, threshold=APART[family]["taylorseer"], warmup_steps=3, back_blocks=1, stacks="separate"
        ),
    }
    return gates[method]()
