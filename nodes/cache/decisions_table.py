"""The decisions of gates in a run, as text: a line for each gate, or the decision of each step. Torch-free."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

Key = tuple[str | None, str, str, str, int | None, int | None]


def report(record: Mapping[str, Any]) -> str:
    """Write the decisions as text, from the record of a run; empty if there was no gate."""
    totals = record.get("gate_totals", [])
    if not totals:
        return ""
    decisions: dict[Key, list[Mapping[str, Any]]] = {}
    for decision in record.get("gates", []):
        decisions.setdefault(decision_key(decision), []).append(decision)
    runs = Counter(map(decision_key, totals))
    nodes = {total.get("node") for total in totals}
    told: Counter[Key] = Counter()
    lines = []
    for total in totals:
        key = decision_key(total)
        told[key] += 1
        # An inner loop runs several times, and each of its runs has its own totals.
        place = f" at {total['node']}" if len(nodes) > 1 else ""
        place += f", run {told[key]} of {runs[key]}" if runs[key] > 1 else ""
        whose = f"{total['component']}, {total['branch']}"
        whose += "".join(f", {name} {total[name]}" for name in ("clip", "stack") if total.get(name) is not None)
        share = f"{total['computed']} computed, {total['reused']} reused ({total['ratio']:.0%})"
        lines.append(f"gate {total['gate']} ({total['method']}){place}, {whose}: {share}")
        mine = decisions.get(key, [])
        taken = total["computed"] + total["reused"]
        lines += [f"  {line}" for line in _steps(mine[:taken])]
        decisions[key] = mine[taken:]
    return "\n".join(lines)


def summary(record: Mapping[str, Any]) -> str:
    """Write a line for each gate, from the record of a run: how much it reused, of each branch; empty without gates."""
    gates: dict[tuple[str, str], dict[tuple[str, str], list[int]]] = {}
    for total in record.get("gate_totals", []):
        branches = gates.setdefault((total["gate"], total["method"]), {})
        counts = branches.setdefault((total["component"], total["branch"]), [0, 0])
        counts[0] += total["reused"]
        counts[1] += total["computed"] + total["reused"]
    lines = []
    for (gate, method), branches in gates.items():
        reused, taken = (sum(counts[n] for counts in branches.values()) for n in (0, 1))
        share = f" ({reused / taken:.0%})" if taken else ""
        line = f"gate {gate} ({method}): {reused} of {taken} evaluations reused{share}"
        several = len({component for component, _ in branches}) > 1
        parts = [
            f"{f'{component} ' if several else ''}{branch} {some} of {all}"
            for (component, branch), (some, all) in branches.items()
        ]
        lines.append(f"{line}: {', '.join(parts)}" if len(parts) > 1 else line)
    return "\n".join(lines)


def decision_key(row: Mapping[str, Any]) -> Key:
    """Node, gate, component, branch, clip and stack of a decision or a total."""
    return row.get("node"), row["gate"], row["component"], row["branch"], row.get("clip"), row.get("stack")


def _steps(decisions: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """One line for neighbouring steps with equal outcome and reason, with the numbers compared with the threshold."""
    for (computed, reason), group in groupby(decisions, key=lambda d: (d["computed"], d["reason"])):
        rows = list(group)
        first, last = rows[0]["step"], rows[-1]["step"]
        steps = f"step {first}" if first == last else f"steps {first} to {last}"
        line = f"{steps:<16}{'computed' if computed else 'reused':<10}{reason:<11} "
        # The record holds numbers that are not finite as text.
        values = [float(value) for row in rows if (value := row.get("value", row["distance"])) is not None]
        if values:
            # The step is computed if the number is NaN or too large.
            sign = ">=" if computed else "<"
            line += f"{' '.join(f'{value:.4g}' for value in values)} {sign} {float(rows[0]['threshold']):g}"
        yield line.rstrip()
