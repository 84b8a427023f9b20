"""Forms of adapters: the parts of each form, and checks of their shapes against the weight. Torch-free.

In this module a weight is a matrix: rows are output channels, and columns are all other dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

FORMS: dict[str, tuple[str, ...]] = {
    "lora": ("lora_down", "lora_up", "lora_mid"),
    "loha": ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"),
    "lokr": ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
    "diff": ("diff",),
    "diff_m": ("diff_m",),
}
"""Parts that change the weight. Magnitudes belong to any of the forms, `alpha` to the first three."""

MAGNITUDES = ("lora_magnitude_vector", "dora_scale")
"""Names of the magnitudes of a DoRA, in peft and in LyCORIS."""

BIASES = ("diff_b", "lora_up_bias")
"""Parts that are added to the bias."""


class Unfit(Exception):
    """An adapter cannot be applied.

    Attributes:
        part: The part at fault.
        reason: The fault, as the end of a sentence whose subject is the tensor.
    """

    def __init__(self, part: str, reason: str) -> None:
        super().__init__(reason)
        self.part = part
        self.reason = reason


def forms(parts: Mapping[str, object]) -> list[str]:
    """The forms of adapters to which these parts belong."""
    return [form for form, own in FORMS.items() if any(part in parts for part in own)]


def rank(form: str, shapes: Shapes) -> int | None:
    """The rank by which `alpha` is divided; None if the form has no rank."""
    if form == "lora":
        return shapes["lora_down"][0]
    if form == "loha":
        return shapes["hada_w1_b"][0]
    factor = shapes.get("lokr_w2_b") or shapes.get("lokr_w1_b")
    return factor[0] if form == "lokr" and factor else None


def fit(form: str, shapes: Shapes, weight: Shape) -> None:
    """Check that the change by an adapter of this form has the size of the weight.

    Args:
        form: One of `FORMS`.
        shapes: Shapes of the adapter's parts.
        weight: Shape of the layer's weight, as the file has the layer.

    Raises:
        Unfit: If a part is missing, or a shape does not fit.
    """
    rows, columns = weight[0], prod(weight[1:])
    if form in ("diff", "diff_m"):
        _same(form, shapes[form], weight)
        return
    least = {"lora": ("lora_down", "lora_up"), "loha": FORMS["loha"][:4], "lokr": ()}[form]
    for part in least:
        if part not in shapes:
            raise Unfit(next(p for p in FORMS[form] if p in shapes), f"needs {part}, which is missing")
    for part in FORMS[form]:
        if part in shapes and len(shapes[part]) < 2:
            raise Unfit(part, f"has the shape {_text(shapes[part])}, which is not a matrix")
    if form == "lora":
        made = _product("lora_up", "lora_down", "lora_mid", shapes, transposed=False)
    elif form == "loha":
        made = _product("hada_w1_a", "hada_w1_b", "hada_t1", shapes, transposed=True)
        other = _product("hada_w2_a", "hada_w2_b", "hada_t2", shapes, transposed=True)
        if made != other:
            raise Unfit("hada_w2_a", f"gives a change of {_text(other)}, and the first pair gives {_text(made)}")
    else:
        first, second = _factor("lokr_w1", shapes), _factor("lokr_w2", shapes)
        made = (first[0] * second[0], first[1] * second[1])
    if made != (rows, columns):
        factor = "lokr_w2" if "lokr_w2" in shapes else "lokr_w2_a"
        part = {"lora": "lora_up" if made[0] != rows else "lora_down", "loha": "hada_w1_a", "lokr": factor}[form]
        raise Unfit(part, f"gives a change of {_text(made)}, and the weight has {_text((rows, columns))}")


def fit_bias(part: str, shapes: Shapes, rows: int) -> None:
    """Check a part that is added to the bias of a layer with this many rows.

    Raises:
        Unfit: If the part has another size.
    """
    if prod(shapes[part]) != rows:
        raise Unfit(part, f"has the shape {_text(shapes[part])}, and the bias has {rows} numbers")


def fit_magnitude(part: str, shapes: Shapes, weight: Shape) -> None:
    """Check the magnitudes of a DoRA: one for each output channel, or one for each input channel.

    Raises:
        Unfit: If the number of magnitudes is neither of these.
    """
    shape = shapes[part]
    if prod(shape) != weight[0] and not by_input(part, shape, weight):
        raise Unfit(part, f"has the shape {_text(shape)}, and the weight has {_text(weight)}")


def by_input(part: str, magnitude: Shape, weight: Shape) -> bool:
    """Whether a DoRA has one magnitude for each input channel, [1, in, …], as some files of LyCORIS do."""
    if part != "dora_scale" or len(magnitude) < 2 or len(weight) < 2 or weight[0] == 1:
        return False
    return magnitude[0] == 1 and magnitude[1] == weight[1] == prod(magnitude)


def _product(left: str, right: str, core: str, shapes: Shapes, *, transposed: bool) -> Shape:
    """Rows and columns of `left` times `right`, with a Tucker core between them if there is one."""
    outer, inner, middle = shapes[left], shapes[right], shapes.get(core)
    if middle is None:
        if prod(outer[1:]) != inner[0]:
            raise Unfit(left, f"has the shape {_text(outer)}, and {right} has {_text(inner)}")
        return (outer[0], prod(inner[1:]))
    # A core [r, r, …] lies between factors that are [r, out] and [r, in], or [out, r] and [r, in] for a LoRA.
    rows, between = (prod(outer[1:]), outer[0]) if transposed else (outer[0], prod(outer[1:]))
    if between != middle[0] or inner[0] != middle[1]:
        raise Unfit(core, f"has the shape {_text(middle)}, between {_text(outer)} and {_text(inner)}")
    return (rows, prod(inner[1:]) * prod(middle[2:]))


def _factor(name: str, shapes: Shapes) -> Shape:
    """Rows and columns of one factor of a Kronecker product."""
    whole, pair = shapes.get(name), (f"{name}_a", f"{name}_b")
    if whole is not None:
        return (whole[0], prod(whole[1:]))
    missing = next((part for part in pair if part not in shapes), None)
    if missing is not None:
        raise Unfit(
            next(p for p in FORMS["lokr"] if p in shapes), f"needs {missing} or {name}, and the file has neither"
        )
    core = "lokr_t2" if name == "lokr_w2" else ""
    return _product(*pair, core, shapes, transposed=True)


def _same(part: str, shape: Shape, weight: Shape) -> None:
    plain, wanted = ([size for size in each if size != 1] for each in (shape, weight))
    if plain != wanted and not (prod(shape) == prod(weight) and shape[:1] == weight[:1]):
        raise Unfit(part, f"has the shape {_text(shape)}, and the parameter has {_text(weight)}")


def _text(shape: Shape) -> str:
    return "×".join(map(str, shape)) or "a single number"
