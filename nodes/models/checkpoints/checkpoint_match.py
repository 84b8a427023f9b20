"""The tensors of a checkpoint, matched with the parameters of a component. Torch-free.

`sgd check` and loading both read a file through `match`, so that they agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ....graph.contract.diagnostics import Diagnostic
from ..adapters.layer_table import LayerTable, flat
from . import checkpoint_header, fp8_scales
from .checkpoint_kind import kind_of
from .component_layouts import ComponentLayout
from .stored_tensors import BLOCKS, CheckpointHeader, StoredTensor

SHOWN = 3
"""Names in one message."""

LONGEST = 120
"""Characters of a tensor's name in a message."""

DEEPEST = 5
"""Parts of the longest prefix of names, such as `text_encoders.clip_l.transformer.text_model.`."""

OTHERS = (
    *("model.diffusion_model.", "diffusion_model.", "transformer.", "model_ema.", "vae.", "first_stage_model."),
    *("text_encoders.", "text_encoder.", "text_encoder_2.", "cond_stage_model.", "conditioner."),
)
"""Starts of names of other components, in files that hold a whole model."""

OTHER_MODEL = "the config of this component comes from `source`: it must be the model that the file was made for"
QUANTISED = "safetensors in floating point or scaled fp8, and GGUF files of most types, are read"


@dataclass(frozen=True)
class Part:
    """Rows of a stored tensor that are rows of a parameter.

    Attributes:
        key: Name of the tensor in the file.
        start: Its first row.
        rows: Number of rows.
        at: The first of these rows in the parameter.
    """

    key: str
    start: int
    rows: int
    at: int


@dataclass(frozen=True)
class CheckpointMatch:
    """A file, read for one component.

    Attributes:
        parts: The parts that make up each parameter, by the parameter's name.
        scales: Name of the scale of each stored tensor that has one.
        kinds: Dtype of the numbers of each stored tensor that holds fp8 numbers as bytes.
        heads: Number of heads of each stored tensor whose rows are in the order of llama.cpp.
        absent: Parameters that the file lacks, and on which no conditioning depends.
        problems: Errors and warnings.
    """

    parts: Mapping[str, tuple[Part, ...]]
    scales: Mapping[str, str]
    kinds: Mapping[str, str]
    heads: Mapping[str, int]
    absent: tuple[str, ...]
    problems: tuple[Diagnostic, ...]

    @property
    def errors(self) -> list[Diagnostic]:
        return [problem for problem in self.problems if problem.severity == "error"]


def match(header: CheckpointHeader, layout: ComponentLayout, component: str) -> CheckpointMatch:
    """Match the tensors of a file with the parameters of a component.

    Args:
        header: The file's header.
        layout: The component's parameters.
        component: Name of the component, which is also the parameter of model.load that names the file.
    """
    return _Matcher(header, layout, component).match()


class _Matcher:
    """Goes through the tensors of one file."""

    def __init__(self, header: CheckpointHeader, layout: ComponentLayout, component: str) -> None:
        self.header = header
        self.layout = layout
        self.component = component
        self.tensors = header.tensors
        self.prefix = _prefix(header, layout.table)
        self.formats = checkpoint_header.layer_formats(header) if header.format == "safetensors" else {}
        self.marked = any(fp8_scales.is_marker(name) for name in self.tensors)
        self.parts: dict[str, list[Part]] = {}
        self.scales: dict[str, str] = {}
        self.kinds: dict[str, str] = {}
        self.heads: dict[str, int] = {}
        self.wrong: dict[str, str] = {}
        self.lacking: list[str] = []

    def match(self) -> CheckpointMatch:
        for key, tensor in self.tensors.items():
            name = key.removeprefix(self.prefix)
            pieces = find(self.layout.table, name) if key.startswith(self.prefix) else None
            if pieces is not None:
                self._add(key, name, tensor, pieces)
            else:
                self._other(key, name)
        self._drop_copies()
        missing, absent = self._missing()
        if self.parts:
            problems = [*self._errors(missing), *self._warnings(absent)]
        else:
            problems = [self._stranger()]
        parts = {name: tuple(found) for name, found in self.parts.items()}
        parts |= {name: parts[target] for name, target in self.layout.tied.items() if target in parts}
        return CheckpointMatch(parts, self.scales, self.kinds, self.heads, tuple(absent), tuple(problems))

    def _add(self, key: str, name: str, tensor: StoredTensor, pieces: list[tuple[str, int, int]]) -> None:
        """Add a tensor whose rows belong to these rows of parameters."""
        self._check_numbers(key, tensor)
        first = self.layout.table.shapes[pieces[0][0]]
        wanted = first if len(pieces) == 1 else (sum(stop - start for _, start, stop in pieces), *first[1:])
        if not _same(tensor.shape, wanted, whole=len(pieces) == 1):
            self.wrong[key] = f"has the shape {_sizes(tensor.shape)}, and {pieces[0][0]} needs {_sizes(wanted)}"
        row = 0
        for parameter, start, stop in pieces:
            self.parts.setdefault(parameter, []).append(Part(key, row, stop - start, start))
            row += stop - start
        if self.header.format == "gguf" and self.header.metadata.get("general.architecture") == "llama":
            heads = self.layout.heads.get(flat(name.removesuffix(".weight").removesuffix(".bias")))
            if heads is not None:
                self.heads[key] = heads

    def _check_numbers(self, key: str, tensor: StoredTensor) -> None:
        """Note why a tensor cannot be read, and its scale."""
        scale = fp8_scales.scale_of(key, self.tensors) if key.endswith(".weight") else None
        if tensor.dtype in BLOCKS:
            reason = None if scale is None else f"is quantised as {tensor.dtype}, and has the scale {scale} too"
        else:
            layer = key.removesuffix(".weight") if key.endswith(".weight") else None
            stated = None
            if layer is not None:
                stated = self.formats.get(layer, self.formats.get(layer.removeprefix(self.prefix)))
            entry = None if scale is None else (scale, self.tensors[scale])
            reason = fp8_scales.problem(key, tensor, entry, stated, self.marked)
            if tensor.dtype == "U8" and stated in fp8_scales.READABLE:
                self.kinds[key] = fp8_scales.READABLE[stated]
        if reason is not None:
            self.wrong[key] = reason
        if scale is not None:
            self.scales[key] = scale

    def _other(self, key: str, name: str) -> None:
        """Note a tensor that is no parameter."""
        table, layer = self.layout.table, fp8_scales.layer_of(key)
        if fp8_scales.is_marker(key) or self.layout.is_unused(name):
            return
        if layer is not None and f"{layer}.weight" in self.tensors:
            return  # a scale, which goes with its weight
        owner = _owner(table, name) if key.startswith(self.prefix) else None
        if owner is not None:
            bias = name.endswith(".bias") and f"{owner}.bias" not in table.shapes
            self.wrong[key] = f"is for {owner}, {'which has no bias' if bias else 'in a form that cannot be read'}"
        elif not (key.startswith(OTHERS) and not (self.prefix and key.startswith(self.prefix))):
            self.lacking.append(key)

    def _drop_copies(self) -> None:
        """Keep one tensor for each parameter: of tied ones either, of others the only one."""
        for name, target in self.layout.tied.items():
            copy = self.parts.pop(name, None)
            if copy is not None:
                self.parts.setdefault(target, copy)
        for parameter, parts in self.parts.items():
            taken = 0
            for part in sorted(parts, key=lambda each: each.at):
                if part.at < taken:
                    other = next(each.key for each in parts if each is not part)
                    self.wrong[part.key] = f"is for {parameter}, which {other} is for too"
                taken = max(taken, part.at + part.rows)

    def _missing(self) -> tuple[list[str], list[str]]:
        """Parameters that the file lacks, and those on which no conditioning depends."""
        missing: list[str] = []
        absent: list[str] = []
        for name, shape in self.layout.table.shapes.items():
            found = self.parts.get(self.layout.tied.get(name, name), [])
            if sum(part.rows for part in found) < (shape[0] if shape else 1):
                (absent if self.layout.is_needless(name) else missing).append(name)
        return missing, absent

    def _errors(self, missing: list[str]) -> Iterator[Diagnostic]:
        file, kind = self.header.file.name, kind_of(self.header)
        if self.wrong:
            key, reason = next(iter(self.wrong.items()))
            others = [other for other in self.wrong if other != key]
            more = f"; {_some(others, 'tensor')} cannot be used either" if others else ""
            help = OTHER_MODEL if reason.startswith(("has the shape", "is for")) else QUANTISED
            yield Diagnostic("bad-value", f"{file}: {_short(key)} {reason}{more}", self.component, help=help)
        if missing:
            every = len(self.layout.table.shapes)
            message = f"{file} lacks {len(missing)} of the {every} parameters of {self.component}: {_names(missing)}"
            help = OTHER_MODEL if len(missing) < every // 2 or kind is None else f"the file looks like {kind}"
            yield Diagnostic("bad-value", message, self.component, help=help)

    def _warnings(self, absent: list[str]) -> Iterator[Diagnostic]:
        file = self.header.file.name
        if self.lacking:
            verb = "is" if len(self.lacking) == 1 else "are"
            message = f"{file}: {_some(self.lacking, 'tensor')} {verb} for nothing that {self.component} has"
            yield Diagnostic(
                "bad-value", message, self.component, severity="warning", help="they are not used; " + OTHER_MODEL
            )
        if absent:
            message = f"{file} lacks {_some(absent, 'parameter')} of {self.component}; they are zero"
            yield Diagnostic(
                "bad-value", message, self.component, severity="warning", help="no conditioning depends on them"
            )

    def _stranger(self) -> Diagnostic:
        """The error for a file without any tensor of the component."""
        file, kind = self.header.file.name, kind_of(self.header)
        names = f": {_some(list(self.tensors), 'tensor')}" if self.tensors else ": it has no tensors"
        message = f"{file} is not a checkpoint of {self.component} ({self.layout.class_name}){names}"
        return Diagnostic(
            "bad-value", message, self.component, help=OTHER_MODEL if kind is None else f"it looks like {kind}"
        )


def find(table: LayerTable, name: str) -> list[tuple[str, int, int]] | None:
    """The parameters of a tensor with this name, each with its first row and the row after its last."""
    pieces = table.find(name)
    if pieces is not None and (name.endswith(".scale") or all(piece.layer in table.shapes for piece in pieces)):
        return [(table.weight(piece), piece.start, piece.stop) for piece in pieces]
    for end in (".weight", ".bias"):
        pieces = table.find(name.removesuffix(end)) if name.endswith(end) else None
        if pieces is not None and all(f"{piece.layer}{end}" in table.shapes for piece in pieces):
            return [(f"{piece.layer}{end}", piece.start, piece.stop) for piece in pieces]
    return None


def _prefix(header: CheckpointHeader, table: LayerTable) -> str:
    """The start of the names of this component's tensors; the one that fits most of them."""
    found: dict[str, int] = {}
    last = ""
    for key in header.tensors:
        ends = _ends(key)
        if last and key.startswith(last):
            ends = [len(last), *ends]  # most names begin as the one before
        end = next((end for end in ends if find(table, key[end:]) is not None), None)
        if end is not None:
            last = key[:end]
            found[last] = found.get(last, 0) + 1
    return max(found, key=lambda prefix: (found[prefix], -len(prefix)), default="")


def _ends(name: str) -> list[int]:
    """Where the prefixes of a name end: nowhere, and after each of its first parts."""
    ends = [0]
    while len(ends) <= DEEPEST and (dot := name.find(".", ends[-1])) >= 0:
        ends.append(dot + 1)
    return ends


def _owner(table: LayerTable, name: str) -> str | None:
    """The layer to which a tensor belongs that is no parameter; None if the component has none of that name."""
    while "." in name:
        name = name.rpartition(".")[0]
        pieces = table.find(name)
        if pieces is not None:
            return pieces[0].layer
    return None


def _same(shape: tuple[int, ...], wanted: tuple[int, ...], *, whole: bool) -> bool:
    """Whether two shapes hold the same numbers in the same order: sizes of 1 do not count."""
    if not whole and shape[:1] != wanted[:1]:
        return False
    return [size for size in shape if size != 1] == [size for size in wanted if size != 1]


def _sizes(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "of a single number"


def _some(names: list[str], word: str) -> str:
    """A count, and the first names."""
    return f"{len(names)} {word}{'s' * (len(names) != 1)} ({_names(names)})"


def _names(names: list[str]) -> str:
    return f"{', '.join(map(_short, names[:SHOWN]))}{', …' * (len(names) > SHOWN)}"


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
