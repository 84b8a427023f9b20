"""Checks of the options of the cache-dit package: unknown names, conflicts, requirements on a model. Torch-free.

The package drops unknown keys without a message, and ignores some keys unless another one is set. This module reports
both as problems before weights load.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ....graph.contract.diagnostics import Diagnostic
from ....graph.contract.errors import NodeError, Problems
from ....graph.contract.facts import UNKNOWN
from ....graph.contract.node import Input
from ....graph.contract.parameter_values import value_problem
from ....graph.contract.source_spans import Span
from ....graph.contract.suggestions import did_you_mean
from ....graph.contract.yaml_reader import Value, parse, read
from ...support.input_files import shown
from ..gate import Gate, Limits, Mask
from ..gate_place import Place, whole_groups
from ..masks import preset_mask

FILE, POLICY, MASK = "file", "mask_policy", "steps_computation_mask"
CALIBRATORS = ("enable_taylorseer", "enable_dmd", "enable_foca")
NEEDS = {
    "taylorseer_order": ("enable_taylorseer",),
    "taylorseer_cache_type": ("enable_taylorseer",),
    "enable_encoder_taylorseer": ("enable_taylorseer",),
    "dmd_history": ("enable_dmd",),
    "dmd_rank": ("enable_dmd",),
    "dmd_ridge": ("enable_dmd",),
    "dmd_svd_precision": ("enable_dmd",),
    "enable_encoder_dmd": ("enable_dmd",),
    "enable_encoder_foca": ("enable_foca",),
    "calibrator_cache_type": ("enable_dmd", "enable_foca"),
}
"""Options that have an effect only if one of the listed options is switched on (cache_dit/caching/load_configs.py)."""

PRUNING = (
    "enable_dynamic_prune_threshold",
    "max_dynamic_prune_threshold",
    "dynamic_prune_threshold_relax_ratio",
    "non_prune_block_ids",
    "force_reduce_calibrator_vram",
)
"""Options of DBPruneConfig that DBCacheConfig does not have."""

ELSEWHERE = {
    "parallelism_config": "sgd runs a model on one device",
    "attention_backend": "choose it with `model.attention`",
    "quantize_config": "choose the precision of a model with `dtype` of `model.load`",
}
"""Sections of a configuration file that are not about caching, each with the place for its setting."""

SECTION = "cache_config"
FRONT, THRESHOLD, WARMUP = 8, 0.08, 8  # defaults of DBCacheConfig
JOINED = ("flux",)
"""Families whose two lists of blocks the package joins into one list (its adapter `flux_adapter`)."""


def gather(inputs: Mapping[str, Input], values: Mapping[str, Any]) -> tuple[dict[str, Any], list[Diagnostic]]:
    """Collect the options from a node's parameters and from its file, and check them.

    Args:
        inputs: The parameters of the node type.
        values: The values of the parameters. None stands for a parameter that is not given, `UNKNOWN` for a value that
            is not known. A parameter overrides the option in the file.

    Returns:
        The options, and the problems that exist for every value of the unknown options.
    """
    problems: list[Diagnostic] = []
    options: dict[str, Any] = {}
    file = values.get(FILE)
    if file is UNKNOWN:
        options = {name: UNKNOWN for name in inputs if name != FILE}
    elif file is not None:
        options, problems = _from_file(Path(file), inputs)
    given = {name: value for name, value in values.items() if name != FILE and value is not None}
    if MASK in given or POLICY in given:
        for name in (MASK, POLICY):
            options.pop(name, None)
    options |= given
    for found in _conflicts(options):
        problems.append(found if found.parameter in given else replace(found, place=FILE))
    return options, problems


def _from_file(path: Path, inputs: Mapping[str, Input]) -> tuple[dict[str, Any], list[Diagnostic]]:
    try:
        root, found = parse(read(path, shown(path)))
    except Problems as error:
        first = error.diagnostics[0]
        # The message names the file that could not be read.
        place = _at(first.span, path) if first.span is not None else ""
        return {}, [Diagnostic("bad-value", place + first.message, FILE, help=first.help)]
    problems = [Diagnostic("bad-value", _at(d.span, path) + d.message, FILE, help=d.help) for d in found]
    if root is None or not root.is_map:
        return {}, [*problems, Diagnostic("bad-value", f"{shown(path)} holds no mapping of options", FILE)]
    for name, help in ELSEWHERE.items():
        if name in root.data:
            message = f"{_at(root.keys[name], path)}`{name}` is not about caching"
            problems.append(Diagnostic("unsupported", message, FILE, help=f"take it out of the file; {help}"))
    section = root
    names = {name for name in inputs if name not in (FILE, POLICY)}
    if SECTION in root.data:
        section = root.data[SECTION]
        problems += _unknown(root, {SECTION, *ELSEWHERE}, path)
        if not section.is_map:
            return {}, [
                *problems,
                Diagnostic("bad-value", f"{shown(path)}: `{SECTION}` is not a mapping of options", FILE),
            ]
    problems += _unknown(section, names | (set(ELSEWHERE) if section is root else set()), path)
    options = {}
    for name, value in section.data.items():
        if name not in names or value.data is None:
            continue  # null stands for the default, as in cache-dit
        plain = value.plain()
        parameter = POLICY if name == MASK and isinstance(plain, str) else name
        if inputs[parameter].type.kind == "list" and not isinstance(plain, list):
            plain = [plain]
        problem = value_problem(inputs[parameter], plain)
        if problem is not None:
            problems.append(Diagnostic("bad-value", f"{_at(value.span, path)}`{name}`: {problem}", FILE))
            continue
        options[parameter] = plain
    return options, problems


def _unknown(section: Value, names: set[str], path: Path) -> Iterator[Diagnostic]:
    for name in section.data:
        if name not in names:
            message = f"{_at(section.keys[name], path)}cache-dit has no option `{name}`"
            yield Diagnostic("unknown-key", message, FILE, help=did_you_mean(name, names))


def _at(span: Span | None, path: Path) -> str:
    return f"{shown(path)}:{span.line}: " if span is not None else f"{shown(path)}: "


def _conflicts(options: Mapping[str, Any]) -> Iterator[Diagnostic]:
    """Report options that conflict. An option whose value is `UNKNOWN` may have any value."""
    known = {name: value for name, value in options.items() if value is not UNKNOWN}
    switched = [name for name in CALIBRATORS if known.get(name)]
    if len(switched) > 1:
        yield Diagnostic(
            "bad-value", f"`{switched[0]}` and `{switched[1]}` exclude each other", switched[1], help="keep one of them"
        )
    for name, owners in NEEDS.items():
        # An option that is off may stand in a file beside its calibrator, which is off too. `UNKNOWN` is true.
        if known.get(name) not in (None, False) and not any(options.get(owner) for owner in owners):
            wanted = " or ".join(f"`{owner}: true`" for owner in owners)
            help = f"add {wanted}, or leave `{name}` out"
            yield Diagnostic("bad-value", f"`{name}` does nothing without {wanted}", name, help=help)
    for name in PRUNING:
        if name in known and options.get("cache_type") not in ("DBPrune", UNKNOWN):
            yield Diagnostic(
                "bad-value",
                f"`{name}` does nothing without `cache_type: DBPrune`",
                name,
                help=f"add `cache_type: DBPrune`, or leave `{name}` out",
            )
    if known.get("cache_type") == "DBPrune" and "max_accumulated_residual_diff_threshold" in known:
        name = "max_accumulated_residual_diff_threshold"
        yield Diagnostic("unsupported", f"cache-dit ignores `{name}` with DBPrune", name, help="leave it out")
    if MASK in known and POLICY in known:
        message = f"`{MASK}` and `{POLICY}` each say which steps are computed"
        yield Diagnostic("bad-value", message, POLICY, help="keep one of them")
    if MASK in known and (not known[MASK] or set(known[MASK]) - {0, 1}):
        yield Diagnostic("bad-value", "a mask is a list of 1 (compute) and 0 (reuse), one for each step", MASK)
    name = "steps_computation_policy"
    if name in known and MASK not in options and POLICY not in options:
        yield Diagnostic(
            "bad-value", f"`{name}` needs a mask, and none is given", name, help=f"add `{MASK}` or `{POLICY}`"
        )
    if known.get("force_refresh_step_policy") and "force_refresh_step_hint" not in options:
        name = "force_refresh_step_policy"
        yield Diagnostic("bad-value", f"`{name}` does nothing without `force_refresh_step_hint`", name, help="add it")
    named = "sgd names the guidance branch of each call, and each branch has its own state"
    for name, other in (("cfg_compute_first", True), ("cfg_diff_compute_separate", False)):
        if known.get(name) is other:
            yield Diagnostic(
                "unsupported", f"`{name}: {str(other).lower()}` is not possible: {named}", name, help="leave it out"
            )


def settled(gate: Gate, place: Place) -> Gate:
    """Return the gate with the parameters of sgd's own rules that match the options.

    The parameters show which decisions are known before the run.

    Raises:
        NodeError: If the options do not fit the model or the number of steps.
    """
    options = gate.options
    front, back = options.get("Fn_compute_blocks", FRONT), options.get("Bn_compute_blocks", 0)
    counts = place.counts or ()
    for blocks in (sum(counts),) if place.family.name in JOINED and counts else counts:
        if front + back >= blocks:
            message = (
                f"cache-dit computes {front} first and {back} last blocks at every step, but there are {blocks} blocks"
            )
            raise NodeError(message, help="lower Fn_compute_blocks or Bn_compute_blocks")
    if place.group > 1 and options.get("cache_type") == "DBPrune":
        message = f"blocks are offloaded {place.group} at a time, and DBPrune decides for each block"
        raise NodeError(message, help="set `blocks: 1` of model.offload", code="unsupported")
    if counts:
        whole_groups(counts, front, back, place.family.name not in JOINED, place.group)
    steps = options.get("num_inference_steps")
    if steps is not None and place.steps is not None and steps != place.steps:
        message = f"the options are for {steps} steps (num_inference_steps), and the loop has {place.steps}"
        raise NodeError(message, help="leave num_inference_steps out: sgd knows the number")
    digits = _digits(options, place.steps)
    static = digits is not None and options.get("steps_computation_policy") == "static"
    limits = Limits(
        warmup_steps=options.get("max_warmup_steps", WARMUP),
        warmup_interval=options.get("warmup_interval", 1),
        max_consecutive=_limit(options.get("max_continuous_cached_steps")),
        max_reused=_limit(options.get("max_cached_steps")),
        max_accumulated=options.get("max_accumulated_residual_diff_threshold"),
    )
    return replace(
        gate,
        signal="front",
        rule="mask" if static else "change",
        threshold=options.get("residual_diff_threshold", THRESHOLD),
        mask=Mask(digits=digits, policy="static" if static else "dynamic") if digits is not None else None,
        front=front,
        back=back,
        limits=limits,
    )


def _digits(options: Mapping[str, Any], steps: int | None) -> str | None:
    """Find the mask as digits; None if the options contain no mask, or the number of steps is not known."""
    if steps is None:
        return None
    if POLICY in options:
        try:
            return preset_mask(options[POLICY], steps)
        except ValueError as error:
            raise NodeError(str(error), help=f"give `{MASK}`") from error
    if MASK not in options:
        return None
    digits = "".join(map(str, options[MASK]))
    if len(digits) != steps:
        message = f"the mask ({MASK}) has {len(digits)} entries, and the loop takes {steps} steps"
        raise NodeError(message, help="give one entry for each step")
    if digits[0] == "0":
        raise NodeError(f"the mask ({MASK}) reuses the first step, and there is nothing to reuse yet")
    return digits


def _limit(value: int | None) -> int | None:
    return None if value is None or value < 0 else value
