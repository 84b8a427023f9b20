"""The transform that adds a LoRA to a transformer."""

from __future__ import annotations

import importlib.util
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from ....graph.contract.diagnostics import Diagnostic
from ....graph.contract.errors import NodeError
from ....graph.contract.node import Run
from ...support.quiet import quiet

LEAST_PEFT = "0.17.0"  # diffusers 0.42, utils/constants.py: MIN_PEFT_VERSION


@dataclass(frozen=True)
class Lora:
    """The transform: the adapters of one file, beside those that are there already.

    Attributes:
        component: Name in the repository.
        file: A safetensors file.
        scale: Factor on the adapters' output.
        pipeline: Pipeline class of diffusers, which knows the formats of LoRA files for its family.
    """

    kind: ClassVar[str] = "lora"

    component: str
    file: Path
    scale: float
    pipeline: str

    def apply(self, module: Any, run: Run) -> None:
        from peft.tuners.tuners_utils import BaseTunerLayer

        name = f"lora_{len(getattr(module, 'peft_config', {}))}"
        try:
            with quiet(), warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
                given, unused = _load(module, self.pipeline, self.file, name)
        except NodeError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise NodeError(f"{self.file} does not fit {self.component}: {reason}", help=HELP) from error
        loaded = sum(f".{name}." in key for key, _ in module.named_parameters())
        if not loaded:
            raise NodeError(f"{self.file} has nothing for {self.component}", help=HELP)
        if loaded < given:
            run.warn(f"{self.file}: {given - loaded} of {given} tensors fit no layer of {self.component}")
        if unused:
            run.warn(f"{self.file}: {unused} tensors are for a text encoder; only the transformer's are used")
        layers: list[Any] = [layer for layer in module.modules() if isinstance(layer, BaseTunerLayer)]
        for layer in layers:
            layer.set_scale(name, self.scale)
            layer.set_adapter(list(module.peft_config))
        run.detail(lora_tensors=loaded)


HELP = "it may be for another model; a LoRA is for one family and size"


def _load(module: Any, pipeline: str, file: Path, adapter: str) -> tuple[int, int]:
    """Load the adapters of a file as the family's pipeline does.

    Returns:
        How many tensors of the file are the transformer's, and how many a text encoder's.

    Raises:
        NodeError: If the pipeline takes no LoRA, or the file holds other tensors too: those would be written into
            parameters that all values of the model share.
    """
    import diffusers

    mixin = next(
        (c for c in getattr(diffusers, pipeline).__mro__ if "load_lora_weights" in vars(c)),
        None,
    )
    if mixin is None:
        raise NodeError(f"{pipeline} of diffusers takes no LoRA")
    counted: list[int] = []

    class Loader(mixin):  # type: ignore[misc, valid-type]
        """The attributes that the loading methods of a pipeline use."""

        hf_device_map = None
        components: ClassVar[dict[str, Any]] = {}
        transformer = module
        text_encoder = None

        @classmethod
        def load_lora_into_text_encoder(cls, *args: Any, **options: Any) -> None:
            """Nothing: tensors for a text encoder were left out below."""

        @classmethod
        def lora_state_dict(cls, source: Any, **options: Any) -> Any:
            found = super().lora_state_dict(source, **options)
            state = found[0] if isinstance(found, tuple) else found
            others = [key for key in state if key.startswith("text_encoder")]
            kept = {key: tensor for key, tensor in state.items() if key not in others}
            foreign = [key for key in kept if "lora" not in key and "lokr" not in key]
            if foreign:
                raise NodeError(f"{file} is no LoRA only: it holds {foreign[0]}", help="choose another file")
            counted[:] = [sum(tensor.ndim > 0 for tensor in kept.values()), len(others)]
            return (kept, *found[1:]) if isinstance(found, tuple) else kept

    Loader().load_lora_weights(
        str(file.parent), weight_name=file.name, adapter_name=adapter, use_safetensors=True, local_files_only=True
    )
    return counted[0], counted[1]


def missing() -> Diagnostic | None:
    """The package that this machine lacks for adapters."""
    if importlib.util.find_spec("peft") is None:
        return _lacking("LoRA needs the package peft, which is not installed")
    from packaging.version import Version

    installed = version("peft")
    if Version(installed) < Version(LEAST_PEFT):
        return _lacking(f"LoRA needs peft {LEAST_PEFT} or newer, and {installed} is installed")
    return None


def _lacking(message: str) -> Diagnostic:
    return Diagnostic("unavailable", message, "source", help="pip install 'sgd[lora]'")
