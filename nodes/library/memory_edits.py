"""Edits of a workflow file that make its plan fit a device: offloading, narrower weights, and tiles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...graph.contract.file_edits import FileEdit, InsertNode, SetParameter
from .memory_advice import OFFLOADABLE, needed_changes

Estimate = Mapping[str, Any]
Origins = Mapping[str, str]
"""For each node, the node `model.load` that its components come from."""


def edits_for(estimate: Estimate, origins: Origins) -> list[FileEdit]:
    """The edits for the changes that `memory_advice` finds.

    Args:
        estimate: The result of `sgd.graph.runtime.estimate.estimate` for a plan that does not fit.
        origins: For each node, the node that its parts come from.
    """
    found: list[FileEdit] = []
    for change in needed_changes(estimate):
        for component in estimate["components"]:
            part, load = component["part"], origins.get(component["holder"], component["holder"])
            if part in change.offloaded and "offload_bytes" in component:
                found.append(_offload(load, part))
            if change.halved and component.get("dtype") == "float32":
                found.append(SetParameter(load, "vae_dtype" if part == "vae" else "dtype", "bfloat16"))
        if change.tiled:
            rows = (row for row in estimate["nodes"] if "tiled_peak_bytes" in row["detail"])
            found += [SetParameter(row["name"], "tiling", "on") for row in rows]
    return list(_once(found))


def chosen(estimate: Estimate, origins: Origins) -> list[FileEdit]:
    """Edits that write down the automatic choices of a plan: components that are offloaded, and work in tiles."""
    written = {
        (origins.get(row["name"]), str(row["detail"].get("offload", "")).split(":")[0])
        for row in estimate["nodes"]
        if row["type"] == "model.offload"
    }
    found: list[FileEdit] = []
    for component in estimate["components"]:
        part, load = component["part"], origins.get(component["holder"], component["holder"])
        if "offloaded" in component and part in OFFLOADABLE and (load, part) not in written:
            found.append(_offload(load, part))
    for row in estimate["nodes"]:
        if str(row["detail"].get("tiling", "")).startswith("on:"):
            found.append(SetParameter(row["name"], "tiling", "on"))
    return list(_once(found))


def _offload(load: str, part: str) -> InsertNode:
    return InsertNode(load, "offloaded", "model.offload", "model", {"component": part})


def _once(edits: list[FileEdit]) -> Iterator[FileEdit]:
    for number, edit in enumerate(edits):
        if edit not in edits[:number]:
            yield edit
