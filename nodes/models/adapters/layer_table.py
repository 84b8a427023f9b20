"""The parameters of a transformer and their shapes, and the names in adapter files that lead to its layers. Torch-free.

Files name a layer in many ways: as in diffusers or as in the model's original repository, with dots or with
underscores. A layer of the original repository may be several layers in diffusers: a fused `qkv` is `to_q`, `to_k` and
`to_v`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Piece:
    """Consecutive output rows of one layer, or of one parameter that belongs to no layer.

    Attributes:
        layer: Dotted name of the layer (`blocks.0.attn1.to_q`) or of the parameter (`scale_shift_table`).
        start: First row.
        stop: Row after the last.
    """

    layer: str
    start: int
    stop: int

    @property
    def rows(self) -> int:
        return self.stop - self.start


Pieces = tuple[Piece, ...]
"""The rows of the model's layers that make up one layer of a file, in the file's order."""


@dataclass(frozen=True)
class LayerTable:
    """The parameters of one transformer, and the names of its layers.

    Attributes:
        shapes: Shape of each parameter, by its name in the module's state dict.
        names: Pieces by the name of a layer, with underscores for dots (`flat`).
    """

    shapes: Mapping[str, tuple[int, ...]]
    names: Mapping[str, Pieces]

    def find(self, name: str) -> Pieces | None:
        """The pieces of the layer or parameter with this name (dots or underscores); None if the model has none."""
        return self.names.get(flat(name))

    def weight(self, piece: Piece) -> str:
        """Name of the parameter that holds a piece's rows."""
        return piece.layer if piece.layer in self.shapes else f"{piece.layer}.weight"

    def shape(self, pieces: Pieces) -> tuple[int, ...]:
        """Shape of the weight of a layer in a file."""
        first = self.shapes[self.weight(pieces[0])]
        return (sum(piece.rows for piece in pieces), *first[1:])

    def has_bias(self, pieces: Pieces) -> bool:
        return all(f"{piece.layer}.bias" in self.shapes for piece in pieces)


def flat(name: str) -> str:
    """A name with underscores where it has dots."""
    return name.replace(".", "_")


@dataclass
class TableBuilder:
    """Collects the parameters of a transformer and the other names of its layers."""

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    names: dict[str, Pieces] = field(default_factory=dict)

    def parameter(self, name: str, *shape: int) -> None:
        """Add a parameter that belongs to no layer."""
        self.shapes[name] = shape
        self.names[flat(name)] = (Piece(name, 0, shape[0]),)

    def layer(self, name: str, *shape: int, bias: bool = True) -> None:
        """Add a layer with a weight of this shape (output channels first), and with a bias if `bias` is True."""
        self.shapes[f"{name}.weight"] = shape
        if bias:
            self.shapes[f"{name}.bias"] = shape[:1]
        self.names[flat(name)] = (Piece(name, 0, shape[0]),)

    def norm(self, name: str, size: int) -> None:
        """Add a norm with a weight only."""
        self.layer(name, size, bias=False)

    def alias(self, name: str, *layers: str) -> None:
        """Add another name of a layer, or the name of a fused layer with the rows of several layers, in order.

        Nothing is added if the model lacks one of the layers.
        """
        found = [self.names.get(flat(layer)) for layer in layers]
        if all(found):
            self.names.setdefault(flat(name), tuple(piece for pieces in found if pieces for piece in pieces))

    def swapped(self, name: str, layer: str) -> None:
        """Add another name of a layer.

        A file that uses this name holds the two halves of the layer's rows in the opposite order.

        The continuous norms of diffusers compute scale and shift. Those of the original repositories compute shift and
        scale.
        """
        [whole] = self.names[flat(layer)]
        half = whole.stop // 2
        self.names[flat(name)] = (Piece(layer, half, whole.stop), Piece(layer, 0, half))

    def timestep(self, name: str, width: int, size: int) -> None:
        """Add the two layers of a timestep or text embedding."""
        self.layer(f"{name}.linear_1", width, size)
        self.layer(f"{name}.linear_2", width, width)

    def feed_forward(self, name: str, width: int, inner: int) -> None:
        self.layer(f"{name}.net.0.proj", inner, width)
        self.layer(f"{name}.net.2", width, inner)

    def build(self) -> LayerTable:
        """Build the table, with diffusers' own names of fused projections and of `to_out`."""
        for name in [key.removesuffix(".weight") for key in self.shapes if key.endswith(".to_q.weight")]:
            attention = name.removesuffix(".to_q")
            query, key, value = (f"{attention}.to_{letter}" for letter in "qkv")
            self.alias(f"{attention}.to_qkv", query, key, value)
            self.alias(f"{attention}.to_kv", key, value)
            added = [f"{attention}.add_{letter}_proj" for letter in "qkv"]
            self.alias(f"{attention}.to_added_qkv", *added)
            self.alias(f"{attention}.to_added_kv", *added[1:])
            self.alias(f"{attention}.to_out", f"{attention}.to_out.0")
        return LayerTable(self.shapes, self.names)


def of_shapes(shapes: Mapping[str, tuple[int, ...]]) -> LayerTable:
    """Make the table of a module whose class is not known. Its layers have only their names in the state dict."""
    table = TableBuilder()
    for key, shape in shapes.items():
        if key.endswith(".weight") and shape:
            name = key.removesuffix(".weight")
            table.layer(name, *shape, bias=f"{name}.bias" in shapes)
        elif shape and not (key.endswith(".bias") and f"{key.removesuffix('.bias')}.weight" in shapes):
            table.parameter(key, *shape)
    return table.build()
