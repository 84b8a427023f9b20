"""Settings of the `sgd` command for the libraries that a run imports, made before it imports them."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Unpack

from . import plain_shapes
from .deferred_imports import ALL, defer, resolve

PARALLEL = "HF_ENABLE_PARALLEL_LOADING"
"""A variable that diffusers reads when it is imported: whether the shards of a model are read by several threads."""

COLLECTIONS = (
    "diffusers.hooks",
    "diffusers.guiders",
    "diffusers.models.autoencoders",
    "diffusers.models.controlnets",
    "diffusers.models.transformers",
    "diffusers.models.unets",
)
"""Packages that import all their modules, of which a run needs one or two."""

UNUSED = (
    "scipy.stats",  # schedulers with noise levels by a beta distribution
    "scipy.integrate",  # linear multistep schedulers
    "httpcore2",  # downloads
    "requests",  # pictures behind links
)
"""Modules that libraries import as a whole, and use in functions that few runs call."""

NAMES: Mapping[str, tuple[str, ...]] = {
    # Losses of training.
    "scipy.optimize": ("linear_sum_assignment",),
    # Checkpoints of GGUF that diffusers itself loads.
    "diffusers.quantizers.gguf": ("GGUFQuantizer",),
    # Adapters: diffusers asks whether a layer belongs to one.
    "peft.tuners.tuners_utils": ("BaseTunerLayer",),
    # Masks that are made with `vmap`.
    "torch._dynamo._trace_wrapped_higher_order_op": ("TransformGetItemToIndex",),
    # Several devices: transformers asks whether a parameter is in several parts.
    "torch.distributed.tensor._utils": ("compute_local_shape_and_global_offset",),
    "torch.distributed.tensor.placement_types": ("Shard", "_StridedShard"),
    "torch.distributed._composable.fsdp": ("fully_shard",),
    "torch.distributed.fsdp": ("CPUOffloadPolicy", "MixedPrecisionPolicy"),
    "torch.distributed.checkpoint.hf_storage": ("HuggingFaceStorageReader", "HuggingFaceStorageWriter"),
    "transformers.distributed.expert_parallel": ("apply_expert_parallelism",),
    "transformers.distributed.tensor_parallel": (
        "apply_tensor_parallelism",
        "gather_state_dict_for_save",
        "get_kv_heads_per_rank",
        "verify_tp_plan",
    ),
}
"""Functions and classes that libraries import from a module, and that few runs use."""

ENCODERS: Mapping[str, tuple[str, ...]] = {
    "clip.modeling_clip": (
        "CLIPTextModel",
        "CLIPTextModelWithProjection",
        "CLIPVisionModel",
        "CLIPVisionModelWithProjection",
    ),
    "clip.tokenization_clip": ("CLIPTokenizer",),
    "llama.modeling_llama": ("LlamaModel",),
    "llama.tokenization_llama": ("LlamaTokenizer",),
    "qwen2.tokenization_qwen2": ("Qwen2Tokenizer",),
    "qwen2_5_vl.modeling_qwen2_5_vl": ("Qwen2_5_VLForConditionalGeneration",),
    "qwen3.modeling_qwen3": ("Qwen3ForCausalLM", "Qwen3Model"),
    "t5.modeling_t5": ("T5EncoderModel",),
    "t5.tokenization_t5": ("T5Tokenizer",),
    "umt5.modeling_umt5": ("UMT5EncoderModel",),
}
"""Classes of text and image encoders by their module in `transformers.models`. The package finds the module of a class
by reading the source of all its models, which takes a good part of a start, so it is asked for other classes only."""

OPERATORS = ("torch._prims", "diffusers.models.attention_dispatch")
"""Modules that register operators of torch, which asks `inspect` where each one stands in the source."""

DOCSTRINGS = "transformers.utils.auto_docstring"
"""Writes docstrings of models, and imports processors and `regex` for that."""

DOCUMENTED = (
    *("ClassAttrs", "ClassDocstring", "ImageProcessorArgs", "ModelArgs", "ModelOutputArgs"),
    *("auto_class_docstring", "get_args_doc_from_source", "parse_docstring", "set_min_indent"),
)
"""The names that `transformers.utils` imports from that module, beside its decorator."""

MARKS = ("allow_in_graph", "assume_constant_result")
"""Decorators of the compiler that note a function or a class."""


def prepare_imports() -> None:
    """Have diffusers read shards in parallel, as transformers does, and keep libraries from executing what no run uses.

    What a run uses after all is executed then. A variable that the user has set stays as it is.
    """
    os.environ.setdefault(PARALLEL, "1")
    with suppress(PackageNotFoundError):
        known = {"__version__": version("transformers")}
        defer("transformers", inside=ALL, stand_ins=("AutoImageProcessor",), given=known, homes=homes())
        defer("transformers.models", inside=ALL)
        defer("transformers.processing_utils", given={"Unpack": Unpack})
        defer(DOCSTRINGS, stand_ins=DOCUMENTED, given={"auto_docstring": _undocumented})
    for name in OPERATORS:
        _tell_source(name)
    for package in COLLECTIONS:
        defer(package, inside=ALL)
    for module in UNUSED:
        defer(module)
    for module, names in NAMES.items():
        defer(module, stand_ins=names)
    defer("peft", inside=("tuners",))
    defer("peft.tuners", inside=("tuners_utils",))
    defer("torch.distributed.tensor", inside=("_utils", "placement_types"), stand_ins=("DTensor", "Shard"))
    defer("torch.distributed.checkpoint", inside=("hf_storage",))
    inside = ("_trace_wrapped_higher_order_op",)
    given = {"disable": _disable, "is_compiling": _is_compiling}
    defer("torch._dynamo", inside=inside, marks=MARKS, given=given)
    defer("sympy", stand_ins=("Basic",))
    defer(plain_shapes.MODULE, given=plain_shapes.stand_ins())


def _tell_source(name: str) -> None:
    """Tell `inspect` the file of a module, so that it does not resolve the paths of all modules to find it."""
    package, *inner = name.split(".")
    spec = find_spec(package) if package not in sys.modules else None
    if spec is not None and spec.origin is not None:
        path = Path(spec.origin).parent.joinpath(*inner)
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        inspect.modulesbyfile.setdefault(str(file), name)


def homes() -> dict[str, str]:
    """Places of classes of transformers. Since its version 5, the tokenizer `XTokenizerFast` is `XTokenizer`."""
    places = {name: f"transformers.models.{module}:{name}" for module, names in ENCODERS.items() for name in names}
    places |= {
        "PreTrainedModel": "transformers.modeling_utils:PreTrainedModel",
        "PreTrainedTokenizerFast": "transformers.tokenization_utils_tokenizers:TokenizersBackend",
        "TokenizersBackend": "transformers.tokenization_utils_tokenizers:TokenizersBackend",
    }
    return places | {f"{name}Fast": place for name, place in places.items() if name.endswith("Tokenizer")}


def _undocumented(thing: Any = None, **options: Any) -> Any:
    """The decorator `auto_docstring`: until its module is executed, docstrings stay as they are in the source.

    A class or function without one gets an empty docstring, since other code may join it to text.
    """
    own = resolve(DOCSTRINGS, "auto_docstring", execute=False)
    if own is not None:
        return own(thing, **options)
    if thing is None:
        return _undocumented
    thing.__doc__ = thing.__doc__ or ""
    return thing


def _is_compiling() -> bool:
    """`torch._dynamo.is_compiling`: nothing is compiled while there is no compiler."""
    own = resolve("torch._dynamo", "is_compiling", execute=False)
    return own is not None and bool(own())


def _disable(function: Any = None, recursive: bool = True, **options: Any) -> Any:
    """`torch._dynamo.disable`: while there is no compiler, a function that it must leave alone is called as it is."""
    import torch

    if "wrapping" not in options:  # torch puts it off to the first call, which calls this function again
        return torch._disable_dynamo(function, recursive)
    disabled: list[Any] = []

    def call(*args: Any, **kwargs: Any) -> Any:
        if not disabled:
            disable = resolve("torch._dynamo", "disable", execute=False)
            if disable is None:
                return function(*args, **kwargs)
            disabled.append(disable(function, recursive, **options))
        return disabled[0](*args, **kwargs)

    call._torchdynamo_disable = True  # type: ignore[attr-defined]  # the compiler looks for it
    return call
