"""Match the adapters of a file with the layers of a model: which are applied, and which tensors are not.

`sgd check` and loading both read a file through `match`, so that they agree. Torch-free.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import prod

from ....graph.contract.diagnostics import Diagnostic
from . import adapter_forms, adapter_names, adapter_scale
from .adapter_forms import BIASES, MAGNITUDES, Unfit
from .adapter_header import UNREADABLE, AdapterHeader
from .adapter_scale import ScaleRule
from .layer_table import LayerTable, Pieces, flat

UNKNOWN_FORM = "in a form that cannot be applied"
"""The end of a sentence whose subject is a tensor."""

SECOND = "transformer_2"
"""Name of a second transformer, in front of the names of its tensors."""

SHOWN = 3
"""Largest number of tensor names in one message."""

OTHER_MODEL = "the file may be for another model; a LoRA fits one family and model size"
OTHER_FORM = "LoRA, LoHa, LoKr, DoRA and differences are applied; convert the file, or leave these tensors out of it"


@dataclass(frozen=True)
class Adapter:
    """All tensors of a file that belong to one layer.

    Attributes:
        stem: The layer, as the file names it.
        pieces: The rows of the model's layers that belong to this layer.
        keys: Names of the tensors in the file, by part.
        shapes: Their shapes, by part.
        alpha: Value of its alpha; None if it has none.
    """

    stem: str
    pieces: Pieces
    keys: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    alpha: float | None = None


@dataclass(frozen=True)
class Match:
    """The result of matching a file with one model.

    Attributes:
        adapters: The adapters that are applied.
        applied: Number of the tensors that are applied.
        scale: The factors of the adapters.
        problems: An error for a tensor of the model's layers that cannot be applied, a warning for any other tensor
            that is not applied.
    """

    adapters: tuple[Adapter, ...]
    applied: int
    scale: ScaleRule
    problems: tuple[Diagnostic, ...]


Group = tuple[str, Pieces]


def match(header: AdapterHeader, table: LayerTable, component: str, file: str) -> Match:
    """Match the tensors of a file with the layers of a model.

    Args:
        header: The file's header.
        table: The model's layers.
        component: Name of the component, for messages and for the metadata.
        file: Name of the file, for messages.
    """
    found: dict[Group, Adapter] = {}
    wrong: dict[str, str] = {}
    lacking: list[str] = []
    general: str | None = None
    others = _of_other_transformer(header, component)
    for key, (dtype, shape) in header.tensors.items():
        if key in others:
            continue
        name = adapter_names.parse(key)
        if name is not None and name.part == "alpha" and _is_general(name.stem):
            if general is not None:
                wrong[key] = f"is an alpha for the whole file, as {general} is"
            general = general or key
            continue
        pieces = adapter_names.find(table, name.stem, name.part) if name is not None else None
        if name is None or pieces is None:
            layer = adapter_names.owner(table, key)
            if layer is None:
                lacking.append(key)
            else:
                wrong[key] = f"is for {layer}, {UNKNOWN_FORM}"
            continue
        own = found.get((name.stem, pieces), Adapter(name.stem, pieces, {}, {}))
        if dtype in UNREADABLE:
            wrong[key] = f"has the dtype {dtype}, which cannot be read"
        elif name.part in own.keys:
            wrong[key] = f"is for the same layer and part as {own.keys[name.part]}; a file holds one adapter"
        keys, shapes = {**own.keys, name.part: key}, {**own.shapes, name.part: shape}
        alpha = header.alphas.get(key) if name.part == "alpha" else own.alpha
        found[name.stem, pieces] = replace(own, keys=keys, shapes=shapes, alpha=alpha)
    if general is not None:
        _share(found, general, header)
    idle = _idle_alphas(found.values(), general)
    copies = _remove_copies(found, wrong)
    for own in found.values():
        wrong |= _misfits(own, table)
    applied = {key for own in found.values() for key in own.keys.values()} - {*wrong, *idle}
    scale = adapter_scale.of_header(header, component)
    problems = [
        *_errors(file, component, wrong, [*lacking, *others], applied, scale),
        *_warnings(file, component, lacking, copies, others, idle),
        *_without_effect(file, found.values()),
    ]
    return Match(tuple(found.values()), len(applied), scale, tuple(problems))


def _is_general(stem: str) -> bool:
    """Whether an alpha names no layer, and so applies to all layers."""
    return not stem or "" in adapter_names.without_prefixes(f"{stem}.")


def _of_other_transformer(header: AdapterHeader, component: str) -> list[str]:
    """Tensors for another transformer of the model, in a file that tells the two apart.

    A file for `transformer_2` alone has its name or that of the first.
    """
    second = [key for key in header.tensors if key.startswith(f"{SECOND}.")]
    if component != SECOND:
        return second
    return [key for key in header.tensors if second and key.startswith(f"{adapter_scale.MAIN}.")]


def _share(found: dict[Group, Adapter], key: str, header: AdapterHeader) -> None:
    """Give the alpha of the whole file to each layer without one of its own."""
    for group, own in found.items():
        if "alpha" not in own.keys:
            keys, shapes = {**own.keys, "alpha": key}, {**own.shapes, "alpha": header.tensors[key].shape}
            found[group] = replace(own, keys=keys, shapes=shapes, alpha=header.alphas.get(key))


def _idle_alphas(found: Iterable[Adapter], general: str | None) -> list[str]:
    """Alphas that scale nothing: one of a difference, and one of the whole file where each layer has its own."""
    scaled, others = set(), [] if general is None else [general]
    for own in found:
        if "alpha" in own.keys:
            if set(adapter_forms.forms(own.keys)) - {"diff", "diff_m"}:
                scaled.add(own.keys["alpha"])
            elif len(own.keys) > 1:
                others.append(own.keys["alpha"])
    return [key for key in dict.fromkeys(others) if key not in scaled]


def _remove_copies(found: dict[Group, Adapter], wrong: dict[str, str]) -> list[str]:
    """Remove adapters that the file holds twice, under two names of a layer.

    The adapter with the model's own name stays.

    Some trainers write a layer under two names, or write `qkv` as well as `to_q`, `to_k` and `to_v`. If a layer has two
    adapters and neither has the model's own name, it is an error.

    Returns:
        Names of the tensors that were removed.
    """
    holders: dict[tuple[str, bool], list[Group]] = {}
    for group, own in found.items():
        for layer in dict.fromkeys(piece.layer for piece in own.pieces):
            for bias in (False, True):
                if (set(own.keys) & set(BIASES)) if bias else adapter_forms.forms(own.keys):
                    holders.setdefault((layer, bias), []).append(group)
    shared = [groups for groups in holders.values() if len(groups) > 1]
    crowded = {group for groups in shared for group in groups}
    named = {group for group in crowded if _has_own_name(found[group])}
    covered = {piece.layer for _, pieces in named for piece in pieces}
    removed: list[str] = []
    for group in [group for group in found if group in crowded - named]:
        if all(piece.layer in covered for piece in group[1]):
            removed += found.pop(group).keys.values()
    for groups in shared:
        left = [group for group in groups if group in found]
        for group in left[1:]:
            layer, other = group[1][0].layer, left[0][0]
            wrong |= dict.fromkeys(found[group].keys.values(), f"is for {layer}, and so is {other}")
    return removed


def _has_own_name(adapter: Adapter) -> bool:
    """Whether the file names the layer as this model does."""
    layer = flat(adapter.pieces[0].layer)
    names = adapter_names.without_prefixes(adapter.stem)
    return len(adapter.pieces) == 1 and any(flat(name) == layer for name in names)


def _misfits(own: Adapter, table: LayerTable) -> Iterator[tuple[str, str]]:
    """Find the tensors of an adapter that cannot be applied, each with the reason."""
    parts, layer, weight = own.shapes, own.pieces[0].layer, table.shape(own.pieces)
    forms = adapter_forms.forms(parts)
    for part, shape in parts.items():
        if part == "alpha" and prod(shape) != 1:
            yield own.keys[part], "is not a single number"
        elif part == "alpha" and own.alpha is not None and not math.isfinite(own.alpha):
            yield own.keys[part], f"is {own.alpha}, which is no finite number"
        elif 0 in shape:
            yield own.keys[part], "is empty"
        elif part in ("lora_down_bias", "lora_mid_bias"):
            yield own.keys[part], f"is for {layer}, {UNKNOWN_FORM}"
        elif (part in MAGNITUDES and not forms) or (part == "lora_up_bias" and "lora_up" not in parts):
            yield own.keys[part], f"is for {layer}, for which the file has no adapter"
        elif part == "alpha" and len(parts) == 1:
            yield own.keys[part], f"is for {layer}, for which the file has nothing else"
        elif part in BIASES and not table.has_bias(own.pieces):
            yield own.keys[part], f"is for {layer}, which has no bias"
    if any(0 in shape for shape in parts.values()):
        return
    checks = [partial(adapter_forms.fit, form, parts, weight) for form in forms]
    checks += [partial(adapter_forms.fit_magnitude, part, parts, weight) for part in MAGNITUDES if part in parts]
    checks += [partial(adapter_forms.fit_bias, part, parts, weight[0]) for part in BIASES if part in parts]
    for check in checks:
        try:
            check()
        except Unfit as unfit:
            yield own.keys[unfit.part], f"is for {layer}, and {unfit.reason}"


def _errors(
    file: str, component: str, wrong: Mapping[str, str], lacking: list[str], applied: set[str], scale: ScaleRule
) -> Iterator[Diagnostic]:
    if wrong:
        key, reason = next(iter(wrong.items()))
        others = [other for other in wrong if other != key]
        more = f"; {_some(others)} cannot be applied either" if others else ""
        help = OTHER_FORM if reason.endswith(UNKNOWN_FORM) else OTHER_MODEL
        yield Diagnostic("bad-value", f"{file}: {key} {reason}{more}", "source", help=help)
    elif not applied:
        names = f": {_some(lacking)}" if lacking else ""
        yield Diagnostic("bad-value", f"{file} has nothing for {component}{names}", "source", help=OTHER_MODEL)
    for fault in scale.faults:
        yield Diagnostic("bad-value", f"{file} {fault}", "source", help=OTHER_FORM)
    for pattern in (*scale.patterns, *scale.ranks):
        if not adapter_scale.readable(pattern):
            message = f"{file}: its settings give an alpha or rank to the layers {pattern[:60]!r}, which cannot be read"
            yield Diagnostic("bad-value", message, "source", help="write the names of the layers")


def _warnings(
    file: str, component: str, lacking: list[str], copies: list[str], others: list[str], idle: list[str]
) -> Iterator[Diagnostic]:
    encoder = [key for key in lacking if adapter_names.of_encoder(key)]
    layers = [key for key in lacking if key not in set(encoder)]
    for keys, reason in (
        (encoder, "for a text encoder, which `model.lora` does not change"),
        (layers, f"for layers that {component} does not have"),
        (others, f"for another transformer than {component}, which needs a `model.lora` of its own"),
        (copies, "in the file twice, under two names of the same layers"),
        (idle, "an alpha that scales nothing"),
    ):
        if keys:
            yield _warning(f"{file}: {_some(keys)} {_are(keys)} {reason}", "they are not applied")


def _without_effect(file: str, found: Iterable[Adapter]) -> Iterator[Diagnostic]:
    still = list(dict.fromkeys(own.keys["alpha"] for own in found if own.alpha == 0))
    if still:
        yield _warning(f"{file}: {_some(still)} {_are(still)} 0", "the adapters of these layers have no effect")


def _warning(message: str, help: str) -> Diagnostic:
    return Diagnostic("bad-value", message, "source", severity="warning", help=help)


def _are(keys: list[str]) -> str:
    return "is" if len(keys) == 1 else "are"


def _some(keys: list[str]) -> str:
    """A count of tensors, and the names of the first."""
    count = f"{len(keys)} tensor{'s' * (len(keys) != 1)}"
    return f"{count} ({', '.join(keys[:SHOWN])}{', …' * (len(keys) > SHOWN)})"
