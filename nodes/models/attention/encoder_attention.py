"""Attention of text encoders: they are models of transformers, which chooses it by a name in their configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ....graph.contract.diagnostics import Diagnostic
from ....graph.contract.errors import NodeError
from ....graph.contract.node import Run
from ...support.quiet import quiet
from ..model import Model
from . import backends
from .backend_table import BACKENDS
from .backends import problem

ROLES = ("text_encoder", "text_encoder_2")

IMPLEMENTATIONS: Mapping[str, str] = {
    "sdpa": "sdpa",
    "flash": "flash_attention_2",
    "flash3": "flash_attention_3",
    "flash4": "flash_attention_4",
}
"""Backends that transformers has too, and its names for them."""

FLASH: Mapping[str, bool] = {
    "CLIPTextModel": True,
    "LlamaModel": True,
    "Qwen2_5_VLForConditionalGeneration": True,
    "Qwen3Model": True,
    "T5EncoderModel": False,  # they add a bias for relative positions to the scores
    "UMT5EncoderModel": False,
}
"""Whether a text encoder can do with FlashAttention: `_supports_flash_attn` of its class in transformers 5."""


@dataclass(frozen=True)
class EncoderAttention:
    """The transform: one implementation of attention for a text encoder.

    Attributes:
        component: Name in the repository.
        implementation: The name in transformers, such as `sdpa` or `eager`.
    """

    kind: ClassVar[str] = "attention"

    component: str
    implementation: str

    def apply(self, module: Any, run: Run) -> None:
        # The configuration, where transformers keeps the choice, was copied with the rest of the view.
        if not hasattr(module, "set_attn_implementation"):
            raise NodeError(f"{type(module).__name__} has no choice of attention")
        try:
            with quiet():
                module.set_attn_implementation(self.implementation)
        except Exception as error:
            raise NodeError(f"attention of {self.component} cannot be {self.implementation}: {error}") from error
        found = chosen(module)
        if found != {self.implementation}:  # transformers warns and takes another, in some cases
            raise NodeError(f"{type(module).__name__} cannot compute attention with {self.implementation}")


def chosen(module: Any) -> set[str]:
    """The implementations that the parts of a text encoder have."""
    configs: list[Any] = [part.config for part in module.modules() if hasattr(part, "config")]
    return {str(c._attn_implementation) for c in configs if hasattr(c, "_attn_implementation")}


def misfit(backend: str, config: Mapping[str, Any], class_name: str, dtype: str | None) -> Diagnostic | None:
    """The problem of a backend that cannot serve a text encoder; None if it can, or too little is known.

    Args:
        backend: As files have it.
        config: The encoder's configuration.
        class_name: Its class, empty if not known.
        dtype: Name of its dtype.
    """
    if backend not in IMPLEMENTATIONS:
        takes = ", ".join(f"`{name}`" for name in IMPLEMENTATIONS)
        return problem("unsupported", f"text encoders have no {backend} attention", f"transformers has {takes}")
    if backend == "sdpa":
        return None
    if class_name and not FLASH.get(class_name, False):
        return problem("unsupported", f"{class_name} cannot use {backend}", "`sdpa` works for every text encoder")
    # transformers cuts the padding out before it calls these, so that they need no mask.
    return backends.model(BACKENDS[backend], dtype=dtype, head=encoder_head_size(config), masks="never")


def encoder_head_size(config: Mapping[str, Any]) -> int | None:
    """Size of the attention heads of a text encoder, from its configuration."""
    config = config.get("text_config") or config
    if config.get("head_dim"):
        return int(config["head_dim"])
    if "hidden_size" in config and "num_attention_heads" in config:
        return int(config["hidden_size"]) // int(config["num_attention_heads"])
    return None


def target(model: Model, component: str) -> tuple[str, Mapping[str, Any]]:
    """Name in the repository and configuration of the text encoder to transform.

    Raises:
        NodeError: If the model has no such component, or it is none of transformers.
    """
    name = model.name(component)
    library, _ = model.weights.repository.entry(name)
    if library != "transformers":
        raise NodeError(f"{name} of {model.weights.repository.source} is not a transformers model")
    return name, model.config(component)
