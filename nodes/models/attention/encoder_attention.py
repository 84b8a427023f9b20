"""Attention of text encoders. The library transformers chooses it by a name in the encoder's configuration."""

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
"""Backends that transformers supports, and their names there."""

FLASH: Mapping[str, bool] = {
    "CLIPTextModel": True,
    "LlamaModel": True,
    "Qwen2_5_VLForConditionalGeneration": True,
    "Qwen3Model": True,
    "T5EncoderModel": False,  # T5 and UMT5 add a bias for relative positions to the scores
    "UMT5EncoderModel": False,
}
"""Whether a text encoder can use FlashAttention: `_supports_flash_attn` of its class in transformers 5."""


@dataclass(frozen=True)
class EncoderAttention:
    """The transform: one implementation of attention for a text encoder.

    Attributes:
        component: Name in the repository.
        implementation: Name in transformers, such as `sdpa` or `eager`.
    """

    kind: ClassVar[str] = "attention"

    component: str
    implementation: str

    def apply(self, module: Any, run: Run) -> None:
        # transformers keeps the choice in the configuration. The view has a copy of the configuration.
        if not hasattr(module, "set_attn_implementation"):
            raise NodeError(f"{type(module).__name__} has no choice of attention")
        try:
            with quiet():
                module.set_attn_implementation(self.implementation)
        except Exception as error:
            raise NodeError(f"attention of {self.component} cannot be {self.implementation}: {error}") from error
        found = chosen(module)
        if found != {self.implementation}:  # in some cases transformers warns and takes another implementation
            raise NodeError(f"{type(module).__name__} cannot compute attention with {self.implementation}")


def chosen(module: Any) -> set[str]:
    """The attention implementations that are set on the parts of a text encoder."""
    configs: list[Any] = [part.config for part in module.modules() if hasattr(part, "config")]
    return {str(c._attn_implementation) for c in configs if hasattr(c, "_attn_implementation")}


def encoder_problem(backend: str, config: Mapping[str, Any], class_name: str, dtype: str | None) -> Diagnostic | None:
    """The reason why a text encoder cannot use a backend; None if it can, or if the facts are unknown.

    Args:
        backend: Name in workflow files.
        config: The encoder's configuration.
        class_name: The encoder's class; empty if unknown.
        dtype: Name of the encoder's dtype; None if unknown.
    """
    if backend not in IMPLEMENTATIONS:
        takes = ", ".join(f"`{name}`" for name in IMPLEMENTATIONS)
        return problem("unsupported", f"text encoders have no {backend} attention", f"text encoders have {takes}")
    if backend == "sdpa":
        return None
    if class_name and not FLASH.get(class_name, False):
        return problem("unsupported", f"{class_name} cannot use {backend}", "`sdpa` works for every text encoder")
    # These backends need no mask: transformers removes the padding before it calls them.
    return backends.model_problem(BACKENDS[backend], dtype=dtype, head=encoder_head_size(config), masks="never")


def encoder_head_size(config: Mapping[str, Any]) -> int | None:
    """Head size of a text encoder, from its configuration; None if the configuration does not give it."""
    config = config.get("text_config") or config
    if config.get("head_dim"):
        return int(config["head_dim"])
    if "hidden_size" in config and "num_attention_heads" in config:
        return int(config["hidden_size"]) // int(config["num_attention_heads"])
    return None


def target(model: Model, component: str) -> tuple[str, Mapping[str, Any]]:
    """Repository name and configuration of the text encoder to transform.

    Raises:
        NodeError: If the model has no such component, or the component is not a transformers model.
    """
    name = model.name(component)
    library, _ = model.weights.repository.entry(name)
    if library != "transformers":
        raise NodeError(f"{name} of {model.weights.repository.source} is not a transformers model")
    return name, model.config(component)
