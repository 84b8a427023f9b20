"""The message about a workflow of ComfyUI: what it is, its models, LoRA files and settings, and the way to sgd."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ....graph.contract.diagnostics import Diagnostic
from .comfyui_models import sources_of
from .comfyui_nodes import ComfyWorkflow, comfy_workflow
from .embedded_json import embedded

MOST_LINES = 20
LONGEST = 120
PICTURES = {".png": "a picture", ".webp": "a picture", ".gif": "a picture"}
CLIPS = (".mp4", ".mov", ".mkv", ".webm", ".m4v")
FAMILIES = "Wan 2.1 and 2.2, HunyuanVideo, FLUX.1, Qwen-Image, Z-Image"


def foreign_workflow(path: Path) -> Diagnostic | None:
    """The problem of a file that is, or carries, a workflow of ComfyUI; None for every other file."""
    found: list[ComfyWorkflow] = []
    for value in embedded(path):
        workflow = comfy_workflow(value)
        if workflow is not None:
            found.append(workflow)
    if not found:
        return None
    # The API format has names for all values, so it says more.
    best = max(found, key=lambda w: (bool(w.models), w.format == "API", len(w.settings)))
    return Diagnostic("foreign-file", _message(path, best), help="\n".join(_lines(best)))


def _message(path: Path, workflow: ComfyWorkflow) -> str:
    suffix = path.suffix.lower()
    form = "API format" if workflow.format == "API" else "format of its editor"
    carrier = "a clip" if suffix in CLIPS else PICTURES.get(suffix, "")
    is_carried = f"is {carrier} that carries a ComfyUI workflow" if carrier else "is a ComfyUI workflow"
    return f"{shown(path.name)} {is_carried} ({form}), and sgd runs workflows of its own"


def _lines(workflow: ComfyWorkflow) -> list[str]:
    """The findings, and the command that writes a workflow for the model."""
    lines = _cut(f"model: {shown(name)}" for name in dict.fromkeys(workflow.models))
    loras = dict.fromkeys(map(_key, workflow.loras))
    lines += _cut(f"LoRA: {shown(name)}{_strength(strength)}" for name, strength in loras)
    lines += _cut(
        f"settings: {shown(node)}: " + ", ".join(f"{name} {shown(value)}" for name, value in settings.items())
        for node, settings in workflow.settings
    )
    sources = sources_of(workflow.models)
    if sources:
        lines += [f"write a workflow for this model with `sgd init {source}`" for source in sources]
        if workflow.loras:
            lines.append("then add LoRA files with the node `model.lora`, and set steps and scale as above")
    elif workflow.models:
        lines.append(f"sgd has no workflow for this model; it has some for {FAMILIES}")
    else:
        lines.append(f"it names no model; `sgd init` writes workflows for {FAMILIES}")
    return lines


def _key(lora: tuple[str, Any]) -> tuple[str, str]:
    name, strength = lora
    number = isinstance(strength, int | float) and not isinstance(strength, bool)
    return name, f"{strength}" if number else ""


def _strength(text: str) -> str:
    return f", strength {shown(text)}" if text else ""


def _cut(lines: Iterable[str]) -> list[str]:
    """At most `MOST_LINES` lines, and a line that counts the rest."""
    found = list(lines)
    more = len(found) - MOST_LINES
    return [*found[:MOST_LINES], *([f"and {more} more"] if more > 0 else [])]


def shown(value: Any) -> str:
    """A value from a file on one line: control characters are escaped, and long text is cut."""
    text = str(value) if not isinstance(value, int) or abs(value) < 10**40 else "a very large number"
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text[:LONGEST])
    return text + ("…" if len(str(value)[: LONGEST + 1]) > LONGEST else "")
