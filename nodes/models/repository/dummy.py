"""Builds components from their configurations: on the meta device for plans, or with random weights.

A dummy component has the class, shapes and dtypes of the real component, and needs the same time and memory.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ....graph.contract.errors import NodeError
from ....graph.contract.process_state import exclusive, shared
from ...support.meta_device import on_meta
from ...support.quiet import quiet

if TYPE_CHECKING:
    import torch

STD = 0.02  # standard deviation; activations stay finite through sixty blocks in half precision


def meta_module(cls: Any, config: Mapping[str, Any], dtype: torch.dtype) -> torch.nn.Module:
    """A module on the meta device, built from its configuration. Shapes and dtypes are those of the loaded module.

    Nothing that other threads use is changed meanwhile.
    """
    with shared():
        with quiet(), on_meta(dtype):
            module = _construct(cls, config, dtype, planned=True)
        if hasattr(cls, "config_class"):
            module.tie_weights()
            _drop_mask(module)
        return _cast(module, dtype).eval().requires_grad_(False)


@shared()
def dummy_module(
    cls: Any, config: Mapping[str, Any], dtype: torch.dtype, device: str, *, seed: int = 0
) -> torch.nn.Module:
    """Build a module on `device` from its configuration, with random weights.

    The class computes the buffers. Parameters are normal with standard deviation 0.02; gains of norms are 1 and their
    biases 0. Each parameter has its own generator, seeded by `seed` and the parameter's name. The numbers depend on the
    type of device and the dtype, but not on the number of threads or the order of parameters.
    """
    import torch

    module = empty_module(cls, config, dtype)
    made: dict[int, torch.nn.Parameter] = {}
    for path, owner in list(module.named_modules()):
        is_norm = "norm" in type(owner).__name__.lower()
        for name, parameter in list(owner.named_parameters(recurse=False)):
            if id(parameter) not in made:  # tied parameters get one tensor
                values = torch.empty_like(parameter, device=device)
                if is_norm:
                    values.fill_(0.0 if name == "bias" else 1.0)
                elif values.is_floating_point():
                    digest = hashlib.blake2b(f"{seed}:{path}.{name}".encode(), digest_size=7).digest()
                    generator = torch.Generator(device).manual_seed(int.from_bytes(digest, "big"))
                    values.normal_(0.0, STD, generator=generator)
                else:
                    values.zero_()
                made[id(parameter)] = torch.nn.Parameter(values, requires_grad=False)
            owner.register_parameter(name, made[id(parameter)])
    place_buffers(module, device)
    return module.eval()


def empty_module(cls: Any, config: Mapping[str, Any], dtype: torch.dtype) -> torch.nn.Module:
    """A module whose parameters are on the meta device, each in the dtype that it has after loading.

    The class computes the buffers, on the CPU. Tied parameters are one parameter.
    """
    from accelerate import init_empty_weights
    from transformers.initialization import no_init_weights

    # These change functions and variables of torch for all threads.
    with exclusive(), quiet(), init_empty_weights(include_buffers=False), no_init_weights(), _default_dtype(dtype):
        module = _construct(cls, config, dtype)
    if hasattr(cls, "config_class"):
        module.tie_weights()  # outside of `init_empty_weights`, which would make a new parameter of every assignment
    made: torch.nn.Module = _cast(module, dtype)
    return made


def place_buffers(module: torch.nn.Module, device: str) -> None:
    """Move the buffers of a module to a device.

    Raises:
        NodeError: If the class does not compute one of them.
    """
    for path, owner in module.named_modules():
        for name, buffer in list(owner.named_buffers(recurse=False)):
            if buffer.is_meta:
                raise NodeError(f"{type(module).__name__} does not compute its buffer {path}.{name}")
            setattr(owner, name, buffer.to(device))


def size(module: torch.nn.Module) -> tuple[int, int]:
    """Number of parameters of a module and their bytes; a tied parameter counts once."""
    parameters = list(module.parameters())
    return sum(p.numel() for p in parameters), sum(p.numel() * p.element_size() for p in parameters)


def _construct(cls: Any, config: Mapping[str, Any], dtype: torch.dtype, planned: bool = False) -> Any:
    import torch

    try:
        if not hasattr(cls, "config_class"):
            return cls.from_config({k: v for k, v in config.items() if not k.startswith("_diffusers")})
        made = cls.config_class.from_dict(dict(config))
        if not planned:
            return cls._from_config(made, dtype=dtype)
        # As `_from_config` does, which also sets torch's default dtype.
        for each in (made, *(getattr(made, name) for name in made.sub_configs)):
            if each is not None:
                each.dtype = dtype
        return cls(made)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise NodeError(f"{cls.__name__} cannot be built from its config: {reason}") from error


def _drop_mask(module: torch.nn.Module) -> None:
    """Make a text encoder on the meta device ignore its attention mask, since transformers reads the mask's values."""
    signature = inspect.signature(module.forward)
    if "attention_mask" not in signature.parameters:
        return

    def without(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        given = signature.bind_partial(*args, **kwargs)
        given.arguments.pop("attention_mask", None)
        # Pass all arguments by name: without the mask, later positional arguments would shift.
        named = dict(given.arguments)
        rest = next((p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD), None)
        named |= named.pop(rest, {}) if rest else {}
        return (), named

    module.register_forward_pre_hook(without, with_kwargs=True)


def _cast(module: Any, dtype: torch.dtype) -> Any:
    """Give parameters their dtypes after loading: `dtype`, or float32 for modules that the class keeps in float32.

    diffusers keeps `_keep_in_fp32_modules` in float32 for every dtype, and transformers only for float16.
    transformers keeps `_keep_in_fp32_modules_strict` in float32 for bfloat16 too.
    """
    import torch

    kept = set(getattr(module, "_keep_in_fp32_modules", None) or ())
    if hasattr(type(module), "config_class"):
        if dtype != torch.float16:
            kept = set()
        kept |= set(getattr(module, "_keep_in_fp32_modules_strict", None) or ())
    for name, parameter in module.named_parameters():
        if parameter.is_floating_point():
            wanted = torch.float32 if kept.intersection(name.split(".")) else dtype
            if parameter.dtype != wanted:
                parameter.data = parameter.data.to(wanted)
    return module


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Set torch's default dtype inside `with`, as the libraries' loaders do. Buffers without a dtype get it."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
