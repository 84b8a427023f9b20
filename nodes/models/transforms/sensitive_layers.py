"""The linear layers of a transformer that are quantised, and those that keep the dtype of the model.

Only layers of the repeated blocks are quantised. Embeddings, final layers and the refiners of prompts are outside of
these blocks; norms are no linear layers. The table names layers inside of the blocks that published work keeps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

MULTIPLE = 16
"""`torch._scaled_mm` takes widths that are multiples of this number."""


@dataclass(frozen=True)
class Sensitive:
    """The layers of one class of transformers.

    Attributes:
        lists: Lists of blocks whose layers are quantised.
        kept: Names inside of a block whose layers are not quantised, and why.
        attention: The reason why attention itself stays in the dtype of the model; empty if it may be in fp8.
    """

    lists: tuple[str, ...]
    kept: Mapping[str, str] = field(default_factory=dict)
    attention: str = ""


_MODULATION = "modulation"

LAYERS: Mapping[str, Sensitive] = {
    "FluxTransformer2DModel": Sensitive(
        ("transformer_blocks", "single_transformer_blocks"),
        {"norm": _MODULATION, "norm1": _MODULATION, "norm1_context": _MODULATION},
    ),
    "HunyuanVideoTransformer3DModel": Sensitive(
        ("transformer_blocks", "single_transformer_blocks"),
        {"norm": _MODULATION, "norm1": _MODULATION, "norm1_context": _MODULATION},
    ),
    # vLLM-Omni keeps the image's feed-forward of Qwen-Image.
    "QwenImageTransformer2DModel": Sensitive(
        ("transformer_blocks",),
        {"img_mod": _MODULATION, "txt_mod": _MODULATION, "img_mlp": "published as sensitive"},
    ),
    # Published for Wan 2.2: with attention and feed-forward in fp8, long clips collapse; feed-forward alone is stable.
    "WanTransformer3DModel": Sensitive(
        ("blocks",),
        {"attn1": "published as sensitive", "attn2": "published as sensitive"},
        "published as sensitive for this family",
    ),
    "ZImageTransformer2DModel": Sensitive(("layers",), {"adaLN_modulation": _MODULATION}),
}
"""The layers of each class of transformers of diffusers 0.42."""


@dataclass(frozen=True)
class Selection:
    """The linear layers of a transformer's blocks.

    Attributes:
        quantized: Paths of the layers to quantise.
        unfit: Paths of layers whose width is not a multiple of `MULTIPLE`.
        kept: Reasons by name inside of a block, for the layers that stay by the table.
        weights: Elements of the weights to quantise, and the number of their rows.
    """

    quantized: tuple[str, ...]
    unfit: tuple[str, ...]
    kept: Mapping[str, str]
    weights: tuple[int, int]

    def text(self) -> str:
        """The layers that stay, as one line; empty if all are quantised."""
        by_reason: dict[str, list[str]] = {}
        for name, reason in self.kept.items():
            by_reason.setdefault(reason, []).append(name)
        lines = [f"{', '.join(names)}: {reason}" for reason, names in by_reason.items()]
        if self.unfit:
            some = ", ".join(self.unfit[:4]) + (f" and {len(self.unfit) - 4} more" if len(self.unfit) > 4 else "")
            lines.append(f"{some}: a width is not a multiple of {MULTIPLE}")
        return "; ".join(lines)


def select(module: Any) -> Selection:
    """The layers of a transformer, which may be on the meta device."""
    known = LAYERS.get(type(module).__name__, Sensitive(()))
    quantized, unfit, kept = [], [], {}
    elements = rows = 0
    for path, name, layer in _linears(module, known):
        if name in known.kept:
            kept[name] = known.kept[name]
        elif layer.in_features % MULTIPLE or layer.out_features % MULTIPLE:
            unfit.append(path)
        else:
            quantized.append(path)
            elements += layer.in_features * layer.out_features
            rows += layer.out_features
    return Selection(tuple(quantized), tuple(unfit), kept, (elements, rows))


def _linears(module: Any, known: Sensitive) -> Iterator[tuple[str, str, Any]]:
    """Path, name of the part of its block, and layer, for each linear layer of the blocks."""
    from torch.nn import Linear

    for list_name in known.lists:
        for number, block in enumerate(getattr(module, list_name)):
            for inner, layer in block.named_modules():
                if isinstance(layer, Linear):
                    yield f"{list_name}.{number}.{inner}", inner.split(".")[0], layer
