"""Classes that a model_index.json names: imported from diffusers and transformers, from nowhere else.

Code that a repository brings along is run only if the caller of the run said so (`trust_remote_code`)."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from ....graph.contract.errors import NodeError
from ....graph.contract.node import Run
from ...support.quiet import quiet

LIBRARIES = ("diffusers", "transformers")
# Base classes of components, in those libraries.
COMPONENTS = {
    "ModelMixin",
    "PreTrainedModel",
    "SchedulerMixin",
    "PreTrainedTokenizerBase",
    "ProcessorMixin",
    "ImageProcessingMixin",
    "FeatureExtractionMixin",
}


def component_class(source: str, part: str, library: str, name: str, folder: Path, run: Run) -> Any:
    """The class of a component.

    Args:
        source: The model, for messages.
        part: Name of the component.
        library: Library as model_index.json has it, or the name of a module in the component's folder.
        name: Name of the class.
        folder: The component's folder.
        run: Its option `trust_remote_code` allows a module in that folder.

    Raises:
        NodeError: If the class is of another library, does not exist, or needs the repository's own code.
    """
    if library not in LIBRARIES:
        if not library.isidentifier() or not (folder / f"{library}.py").is_file():
            raise NodeError(
                f"{source}: {part} is a {name} of `{library}`; only classes of diffusers and transformers are loaded",
                help="this model cannot be used with this version",
            )
        if not run.options.get("trust_remote_code"):
            raise NodeError(
                f"{source}: {part} needs Python code that comes with the repository ({part}/{library}.py)",
                help="read that code; if you trust it, run again with --trust-remote-code",
            )
        from diffusers.utils.dynamic_modules_utils import get_class_from_dynamic_module

        try:
            return get_class_from_dynamic_module(
                str(folder), module_file=f"{library}.py", class_name=name, trust_remote_code=True
            )
        except Exception as error:
            raise NodeError(f"{source}: the code of {part} ({library}.py) fails: {error}") from error
    try:
        with quiet():  # an image processor says so if torchvision, which it can do without, is missing
            cls = getattr(importlib.import_module(library), name)
    except AttributeError as error:
        version = importlib.import_module(library).__version__
        raise NodeError(
            f"{source}: {part} is a {name}, which {library} {version} does not have",
            help=f"install a {library} that has it, or a revision of the model for this one",
        ) from error
    except (ImportError, RuntimeError) as error:
        raise NodeError(f"{source}: {library}.{name} cannot be imported: {error}") from error
    # If a package is missing, e.g. sentencepiece, diffusers has a dummy class in place of the real one.
    if type(cls).__name__ == "DummyObject":
        missing = ", ".join(cls._backends)
        raise NodeError(f"{source}: {library}.{name} needs packages that are not installed: {missing}")
    # Pipelines and the Auto classes have `from_pretrained` too, and read every file they find.
    if not (isinstance(cls, type) and any(base.__name__ in COMPONENTS for base in cls.__mro__)):
        raise NodeError(f"{source}: {part} names {library}.{name}, which is not a component")
    return cls


def is_module(cls: Any) -> bool:
    """Whether components of this class have weights."""
    import torch

    return issubclass(cls, torch.nn.Module)
