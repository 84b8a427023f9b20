"""Records and estimates as tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any


def columns(rows: Iterable[Sequence[str]], right: Iterable[int] = ()) -> list[str]:
    """Rows of cells as aligned lines; the columns in `right` are aligned to the right."""
    rows = [list(map(str, row)) for row in rows]
    if not rows:
        return []
    right = set(right)
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [c.rjust(w) if n in right else c.ljust(w) for n, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return lines


def seconds(value: float | None) -> str:
    """Seconds with three digits that matter."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}" if value >= 0.1 else f"{value:.4f}"


def count(value: float | None, unit: str = "", base: int = 1000) -> str:
    """A large number with a prefix: 1.42 G; bytes with `base` 1024 as GiB."""
    if not value:
        return "-"
    prefixes = ["", "k", "M", "G", "T", "P"] if base == 1000 else ["", "Ki", "Mi", "Gi", "Ti", "Pi"]
    power = 0
    while abs(value) >= base and power < len(prefixes) - 1:
        value, power = value / base, power + 1
    digits = 0 if power == 0 or value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f} {prefixes[power]}{unit}".rstrip()


def shape(outputs: Sequence[Mapping[str, Any]]) -> str:
    """Shape and dtype of a row's first output."""
    if not outputs:
        return ""
    first = outputs[0]
    if "shape" in first:
        many = f"{first['count']} x " if "count" in first else ""
        return f"{many}{'x'.join(map(str, first['shape']))} {first.get('dtype', '')}".strip()
    return f"{first['steps']} steps" if "steps" in first else ""


def facts(detail: Mapping[str, Any]) -> str:
    """What a node said about itself in single values: `tokens 118800`."""
    return ", ".join(f"{name} {value}" for name, value in detail.items() if isinstance(value, str | int | float))


def indent(name: str) -> str:
    """A path as a name under its loop or composite."""
    return "  " * name.count(".") + name.rsplit(".", 1)[-1]


def tree(names: Iterable[str]) -> list[str]:
    """Paths sorted so that what stands in a loop or composite follows it, siblings in their given order."""
    names = list(names)
    place: dict[str, int] = {}
    for number, name in enumerate(names):
        parts = name.split(".")
        for length in range(1, len(parts) + 1):
            place.setdefault(".".join(parts[:length]), number)

    def key(name: str) -> tuple[int, ...]:
        parts = name.split(".")
        prefixes = [".".join(parts[: n + 1]) for n in range(len(parts))]
        return tuple(place.get(p, len(names)) for p in prefixes)

    return sorted(names, key=key)


def each(value: Any) -> Iterator[Any]:
    """What is in a list and the lists in it; the value itself if it is none."""
    if isinstance(value, list):
        for entry in value:
            yield from each(entry)
    else:
        yield value


def run_table(record: Mapping[str, Any]) -> str:
    """The per-node table of a run and where its time went."""
    rows = {row["name"]: row for row in record["nodes"]}
    device = any(row["device_seconds"] is not None for row in rows.values())
    head = ["node", "type", "calls", "seconds", *(["device s"] if device else []), "share", "peak", "output"]
    lines: list[list[str]] = [head]
    for name in tree(rows):
        row = rows[name]
        extra = [seconds(row["device_seconds"])] if device else []
        calls = str(row["calls"]) if row["calls"] else "-"
        same = row["detail"].get("same_as")
        said = "; ".join(text for text in (shape(row["outputs"]), facts(row["detail"])) if text)
        output = f"same as {same}" if same else said
        peak = count(row["peak_bytes"], "B", 1024)
        lines.append(
            [indent(name), row["type"], calls, seconds(row["seconds"]), *extra, f"{row['share']:.0%}", peak, output]
        )
    text = columns(lines, right=range(2, 6 + device))
    phases = ", ".join(f"{name} {seconds(value)}" for name, value in record["phases"].items())
    total = f"{record['status']} in {seconds(record['seconds'])} s ({phases})"
    peak = record["peak_bytes"]
    return "\n".join([*text, "", total + (f", peak {count(peak, 'B', 1024)}" if peak else "")])


def plan_table(estimate: Mapping[str, Any]) -> str:
    """The table of `sgd plan`."""
    rows = {row["name"]: row for row in estimate["nodes"]}
    lines: list[list[str]] = [["node", "type", "calls", "parameters", "FLOP", "peak", "output"]]
    for row in rows.values():
        calls = str(row["calls"]) if row["calls"] else "-"
        parameters, flops = count(row["parameters"]), count(row["flops"])
        lines.append(
            [
                row["name"],
                row["type"],
                calls,
                parameters,
                flops,
                count(row["peak_bytes"], "B", 1024),
                "; ".join(t for t in (shape(row["outputs"]), facts(row["detail"])) if t),
            ]
        )
    text = columns(lines, right=range(2, 6))
    for component in estimate["components"]:
        size = count(component["parameters"])
        memory = count(component["bytes"], "B", 1024)
        dtype = component.get("dtype") or ""
        text.append(f"  {component['holder']}.{component['part']}: {size} parameters, {memory} {dtype}".rstrip())
    peak, memory = estimate["peak_bytes"], estimate["memory_bytes"]
    fits = (
        ""
        if not memory
        else f" of {count(memory, 'B', 1024)} on {estimate['device']}: "
        + ("fits" if estimate["fits"] else "does not fit")
    )
    text += ["", f"total {count(estimate['flops'])}FLOP, peak memory {count(peak, 'B', 1024)}{fits}"]
    text += [f"warning: {w}" for w in estimate["warnings"]]
    return "\n".join(text)
