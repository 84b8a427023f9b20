"""Imports the classes that a model_index.json names. The classes must be in diffusers or transformers.

Code from a repository runs only with the option `trust_remote_code`."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from ....graph.contract.collector import collector_waiting
from ....graph.contract.errors import NodeError
from ....graph.contract.node import Run
from ...support.quiet import quiet

LIBRARIES = ("diffusers", "transformers")
# Base classes of components in these libraries.
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
    """Import the class of a component.

    Args:
        source: The model, for messages.
        part: Name of the component.
        library: Library in model_index.json, or the name of a module in the component's folder.
        name: Name of the class.
        folder: The component's folder.
        run: The run. Its option `trust_remote_code` allows a module in the component's folder.

    Raises:
        NodeError: If the class is in another library, does not exist, or needs code of the repository.
    """
    if library not in LIBRARIES:
        if not library.isidentifier() or not (folder / f"{library}.py").is_file():
            raise NodeError(
                f"{source}: {part} is a {name} of `{library}`; only classes of diffusers and transformers are loaded",
                help="this model cannot be used with this version of sgd",
            )
        if not run.options.get("trust_remote_code"):
            raise NodeError(
                f"{source}: {part} needs Python code of the repository ({part}/{library}.py)",
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
        with quiet(), collector_waiting():  # an image processor warns if torchvision is missing, and works without it
            cls = getattr(importlib.import_module(library), name)
    except AttributeError as error:
        version = importlib.import_module(library).__version__
        raise NodeError(
            f"{source}: {part} needs the class {name}, and {library} {version} does not have it",
            help=f"install a {library} with this class, or use a revision of the model for {library} {version}",
        ) from error
    except (ImportError, RuntimeError) as error:
        raise NodeError(f"{source}: {library}.{name} cannot be imported: {error}") from error
    # diffusers replaces a class by a dummy class if a package such as sentencepiece is missing.
    if type(cls).__name__ == "DummyObject":
        missing = ", ".join(cls._backends)
        raise NodeError(f"{source}: {library}.{name} needs packages that are not installed: {missing}")
    # Pipelines and Auto classes also have `from_pretrained`, and read any files in the folder.
    if not (isinstance(cls, type) and any(base.__name__ in COMPONENTS for base in cls.__mro__)):
        raise NodeError(f"{source}: {part} names {library}.{name}, which is not a component class")
    return cls


def is_module(cls: Any) -> bool:
    """Whether components of this class have weights."""
    import torch

    return issubclass(cls, torch.nn.Module)
