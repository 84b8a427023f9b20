"""Records of runs for the tests of reports, with every key that a record may have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

NODES = {
    "model": "toy.model",
    "text": "toy.text",
    "work": "./parts/work.yaml",
    "work.loop": "loop",
    "work.loop.predict": "toy.predict",
    "work.loop.next": "toy.next",
    "save": "toy.save",
}
TIMES = {"model": 0.02, "text": 0.5, "work.loop.predict": 6.0, "work.loop.next": 0.4, "save": 0.25}
EDGES = [
    ("model.model", "text.model"),
    ("model.model", "work.loop.predict.model"),
    ("text.out", "work.loop.predict.text"),
    ("text.out", "work.loop.state"),
    ("work.loop.state", "work.loop.predict.state"),
    ("work.loop.predict.out", "work.loop.next.out"),
    ("work.loop.next.state", "work.loop.state"),
    ("work.loop.state", "save.value"),
]
STEPS = 10


def record(**changed: Any) -> dict[str, Any]:
    """A record of a finished run with all keys; `changed` replaces some of them."""

    def inside(name: str) -> float:
        return sum(t for other, t in TIMES.items() if other == name or other.startswith(f"{name}."))

    nodes: list[dict[str, Any]] = [
        {
            "name": name,
            "type": type,
            "calls": STEPS if "loop" in name else 1,
            "seconds": inside(name),
            "device_seconds": None,
            "share": inside(name) / 8,
            "peak_bytes": (n + 1) << 20,
            "flops": 2_300_000_000 if name.endswith("predict") else None,
            "bytes": 900_000_000 if name.endswith("predict") else None,
            "ceiling": {"kind": "matrix", "dtype": "bfloat16", "fraction": 0.61} if name.endswith("predict") else None,
            "detail": {"tokens": 180} if name == "text" else {},
            "outputs": [{"port": "out", "type": "Cell", "shape": [1, 4], "dtype": "float32"}],
        }
        for n, (name, type) in enumerate(NODES.items())
    ]
    nodes.append({**nodes[0], "name": "(import)", "type": "", "seconds": 0.6, "share": 0.075, "outputs": []})
    timeline: list[dict[str, Any]] = [
        {"name": "import", "kind": "phase", "start": 0.0, "seconds": 0.6},
        {"name": "run", "kind": "phase", "start": 0.6, "seconds": 7.2},
        {"name": "encoder", "kind": "load", "start": 0.6, "seconds": 0.1},
        {"name": "text", "kind": "node", "start": 0.7, "seconds": 0.5},
    ]
    for step in range(STEPS):
        start = 1.2 + step * 0.64
        timeline.append({"name": "work.loop", "kind": "turn", "start": start, "seconds": 0.64, "step": step})
        timeline.append({"name": "work.loop.predict", "kind": "node", "start": start, "seconds": 0.6, "step": step})
    found: dict[str, Any] = {
        "sgd": "0.1.0",
        "record": 1,
        "workflow": {"name": "toy", "file": "toy.yaml", "sha256": "0" * 64},
        "inputs": {"prompt": "a red circle", "steps": STEPS, "scale": 4.0},
        "set": {"gate.threshold": 0.2},
        "environment": {"device": "cpu", "python": "3.11.7", "torch": "2.13.0", "diffusers": None},
        "options": {"weights": "dummy", "device": "cpu"},
        "status": "done",
        "seconds": 8.0,
        "phases": {"import": 0.6, "compile": 0.1, "load": 0.1, "run": 6.95, "save": 0.25},
        "unaccounted_seconds": 0.01,
        "peak_bytes": 900 << 20,
        "nodes": nodes,
        "edges": [{"from": source, "to": target} for source, target in EDGES],
        "steps": [
            {"loop": "work.loop", "turn": n, "step": n, "sigma": 1 - n / STEPS, "seconds": 0.64} for n in range(STEPS)
        ],
        "gates": [
            {
                "node": "work.loop.predict",
                "gate": "gate",
                "component": "transformer",
                "step": n,
                "branch": branch,
                "computed": n % 3 == 0,
                "distance": None if n == 0 else 0.05 * n,
                "threshold": 0.2,
                "reason": "first" if n == 0 else "rule",
            }
            for n in range(STEPS)
            for branch in ("positive", "negative")
        ],
        "timeline": timeline,
        "memory": [{"seconds": n / 10, "bytes": (400 + n) << 20} for n in range(80)],
        "kernels": [
            {
                "node": "work.loop.predict",
                "name": f"gemm_{n}<float, 128>",
                "calls": 10 * n,
                "device_seconds": n / 100,
                "seconds": n / 90,
            }
            for n in range(1, 6)
        ],
        "outputs": {"picture": ["sheet.png"], "score": 25.5},
        "warnings": ["the clip was decoded in tiles"],
    }
    return found | changed


def write_run(folder: Path, **changed: Any) -> Path:
    """A folder with a record and a small picture, as a run leaves it behind."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 16), (200, 30, 30)).save(folder / "sheet.png")
    (folder / "run.json").write_text(json.dumps(record(**changed)), encoding="utf-8")
    return folder


def strings(value: Any, text: str) -> Any:
    """A value in which every string, in keys that hold names too, ends with a text."""
    if isinstance(value, str):
        return value + text
    if isinstance(value, list):
        return [strings(entry, text) for entry in value]
    if isinstance(value, dict):
        return {key: strings(entry, text) for key, entry in value.items()}
    return value
