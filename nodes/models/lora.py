"""`model.lora`: low-rank adapters on the transformer."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, ClassVar

from ...graph.node import NodeError, Problem, Reads, Run, Shares, Source, node
from . import hub, lora_source, transforms
from .classes import quiet
from .model import Model
from .transforms import Denoiser

LEAST_PEFT = "0.17.0"  # diffusers 0.42, utils/constants.py: MIN_PEFT_VERSION
INSTALL = "pip install 'sgd[lora]'"


@dataclass(frozen=True)
class Lora:
    """The transform: the adapters of one file, beside those that are there already.

    Attributes:
        component: Name in the repository.
        file: A safetensors file.
        scale: Factor on what the adapters add.
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
        """What the loading methods of a pipeline use of it."""

        hf_device_map = None
        components: ClassVar[dict[str, Any]] = {}
        transformer = module
        text_encoder = None

        @classmethod
        def load_lora_into_text_encoder(cls, *args: Any, **options: Any) -> None:
            """Nothing: what the file has for one was left out below."""

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


def _check(**known: Any) -> Iterator[Problem]:
    yield from transforms.problems("lora", **known)
    missing = _missing()
    if missing is not None and "source" in known:
        yield Problem("unavailable", "source", missing, INSTALL)
    weight_name, revision = known.get("weight_name"), known.get("revision")
    for name, value, check in (
        ("weight_name", weight_name, lora_source.check_name),
        ("revision", revision, hub.check_revision),
        ("source", known.get("source"), lambda source: lora_source.local(source, weight_name)),
    ):
        if isinstance(value, str):
            try:
                check(value)
            except NodeError as error:
                yield Problem("bad-value", name, str(error), error.help)
                return


def _missing() -> str | None:
    """Why adapters cannot be used on this machine."""
    if importlib.util.find_spec("peft") is None:
        return "LoRA needs the package peft, which is not installed"
    from packaging.version import Version

    installed = version("peft")
    if Version(installed) < Version(LEAST_PEFT):
        return f"LoRA needs peft {LEAST_PEFT} or newer, and {installed} is installed"
    return None


@node("model.lora", describe=partial(transforms.described, "lora"), check=_check)
def lora(
    run: Run,
    model: Annotated[Model, Reads(), Shares()],
    source: Source,
    *,
    scale: float = 1.0,
    weight_name: str | None = None,
    revision: str | None = None,
    component: Denoiser = "transformer",
) -> Model:
    """Add a LoRA to the transformer; several of these nodes in a row add up.

    Only this value of the model has it: another value of the same model shares the weights, not the adapters, which
    stay apart from the weights. Formats are those that the family's pipeline in diffusers reads. What a LoRA has for
    a text encoder is not used, with a warning. A plan does not count the adapters.

    Args:
        model: The model.
        source: A safetensors file, a folder that holds one, or `owner/name` on the hub.
        scale: How strongly it acts: 0 is not at all, 1 is as it was trained.
        weight_name: Name of the file, where a folder or repository holds several: `name.safetensors`, or
            `folder/name.safetensors` for one that lies deeper.
        revision: Branch, tag or commit on the hub; without it, the default branch.
        component: The transformer to change; `transformer_2` is the second expert of Wan 2.2.

    Returns:
        The model with the LoRA.

    Raises:
        NodeError: If the file cannot be had or read, or is for another model; or if peft is not installed.
    """
    missing = _missing()
    if missing is not None:
        raise NodeError(missing, help=INSTALL)
    name, _ = transforms.target(model, component)
    file, commit = lora_source.local(source, weight_name), None
    if file is None and not run.planning:
        file, commit = lora_source.download(source, revision, weight_name, run)
    run.detail(lora=source if file is None else file.name, scale=scale, **({"commit": commit} if commit else {}))
    # A plan does not read the file, and may be made before it is downloaded.
    return model.transformed(Lora(name, file or Path(source), scale, model.weights.repository.pipeline))
