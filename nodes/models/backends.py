"""Attention backends: what each needs of the machine and of the model. Torch-free.

`model.attention`, its notes in `sgd nodes model.attention`, and `sgd doctor` all ask here. A backend that is
asked for and cannot work is an error; nothing falls back to another one.
"""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, NamedTuple

Capability = tuple[int, int]
HALF = ("float16", "bfloat16")
ARCHITECTURES = {(7, 0): "Volta", (8, 0): "Ampere", (8, 9): "Ada", (9, 0): "Hopper"}


class Reason(NamedTuple):
    """Why a backend cannot be used: a diagnostic's code, a sentence, and what would work."""

    code: Literal["unavailable", "unsupported"]
    why: str
    help: str


@dataclass(frozen=True)
class Backend:
    """One attention backend.

    Attributes:
        name: As files have it.
        library: Its name in diffusers' `AttentionBackendName`, or in `kernels.KERNELS`.
        about: What it is.
        package: Distribution that has to be installed, and the module it brings; None if torch brings it.
        least: Smallest version, from diffusers (models/attention_dispatch.py) or that which `kernels` was written for.
        install: How to get the package.
        capability: Smallest compute capability of the GPU; None if it also runs on a CPU.
        only: The major compute capabilities it has kernels for, if not all from `capability` on.
        dtypes: Names of dtypes; empty if all.
        heads: Largest size of a head, which must be a multiple of 8; 0 if any size will do.
        sizes: The sizes of a head it has, instead of a largest one.
        masks: `applied`; `refused` (a call with a mask fails); or `wrong`, for xformers: diffusers 0.42.1 adds a
            boolean mask of four dimensions to the scores as zeros and ones.
        exact: Computes the same function as SDPA, to rounding: `auto` may choose it.
    """

    name: str
    library: str
    about: str
    package: tuple[str, str] | None = None
    least: str = ""
    install: str = ""
    capability: Capability | None = None
    only: tuple[int, ...] = ()
    dtypes: tuple[str, ...] = ()
    heads: int = 0
    sizes: tuple[int, ...] = ()
    masks: Literal["applied", "refused", "wrong"] = "applied"
    exact: bool = True


BACKENDS: Mapping[str, Backend] = {
    b.name: b
    for b in (
        Backend("sdpa", "native", "torch's scaled_dot_product_attention"),
        # Head sizes: torch, aten/src/ATen/native/transformers/cuda/sdp_utils.cpp, check_cudnn_tensor_shapes
        # (256 on Hopper with a recent cuDNN; no model of this library has larger heads than 128).
        Backend(
            "cudnn", "_native_cudnn", "cuDNN's attention, part of torch", capability=(8, 0), dtypes=HALF, heads=128
        ),
        Backend(
            "flash",
            "flash",
            "FlashAttention 2",
            package=("flash-attn", "flash_attn"),
            least="2.6.3",
            install="pip install flash-attn --no-build-isolation (builds from source, needs nvcc)",
            capability=(8, 0),
            dtypes=HALF,
            heads=256,
            masks="refused",
        ),
        Backend(
            "flash3",
            "_flash_3",
            "FlashAttention 3",
            package=("flash_attn_3", "flash_attn_interface"),
            install="build the folder hopper/ of https://github.com/Dao-AILab/flash-attention (not on PyPI)",
            capability=(9, 0),
            only=(9,),
            dtypes=HALF,
            heads=256,
            masks="refused",
        ),
        # Capability and head sizes: flash_attn/cute/interface.py of the package, `_flash_attn_fwd` and
        # `_validate_head_dims` (256 on Hopper; no model of this library has larger heads than 128).
        Backend(
            "flash4",
            "_sgd_flash_4",
            "FlashAttention 4",
            package=("flash-attn-4", "flash_attn.cute"),
            least="4.0.0b36",
            install="pip install 'flash-attn-4[cu13]>=4.0.0b36' (without [cu13] for a torch of CUDA 12)",
            capability=(8, 0),
            dtypes=HALF,
            heads=128,
            masks="refused",
        ),
        Backend(
            "sage",
            "sage",
            "SageAttention 2: queries and keys in int8, not exact",
            package=("sageattention", "sageattention"),
            least="2.1.1",
            install="build https://github.com/thu-ml/SageAttention (PyPI has version 1 only)",
            capability=(8, 0),
            only=(8, 9, 12),
            dtypes=HALF,
            heads=128,
            masks="refused",
            exact=False,
        ),
        Backend(
            "xformers",
            "xformers",
            "memory-efficient attention of xformers",
            package=("xformers", "xformers"),
            least="0.0.29",
            install="pip install xformers (a build for the CUDA version of your torch)",
            capability=(7, 0),
            heads=256,
            masks="wrong",
        ),
    )
}

SAGE_1 = Backend(
    "sage",
    "_sgd_sage_1",
    "SageAttention 1: queries and keys in int8, not exact",
    package=("sageattention", "sageattention"),
    least="1.0.6",
    install="pip install sageattention",
    capability=(8, 0),
    dtypes=(*HALF, "float32"),
    sizes=(64, 96, 128),  # sageattention/core.py
    masks="refused",
    exact=False,
)
"""What `sage` is where version 1 of the package is installed, or none: PyPI has no other."""

# As the package names them, after the precision of the values. Which GPU each is for: `sageattn` in core.py of
# https://github.com/thu-ml/SageAttention, which chooses among them (the one in Triton does not work on 12.0).
SAGE_KERNELS: Mapping[str, tuple[Capability, tuple[int, ...]]] = {
    "fp16_triton": ((8, 0), (8, 9)),
    "fp16_cuda": ((8, 0), (8, 9, 12)),
    "fp8_cuda": ((8, 9), (8, 9, 12)),
    "fp8_cuda_sm90": ((9, 0), (9,)),
}

Masks = Literal["never", "sometimes", "always"]

MASKS: Mapping[str, Masks] = {
    "WanTransformer3DModel": "never",
    "FluxTransformer2DModel": "never",
    "HunyuanVideoTransformer3DModel": "sometimes",  # not where text.encode cut the padding
    "HunyuanVideo15Transformer3DModel": "always",
    "LTXVideoTransformer3DModel": "always",
}
"""Whether transformers of diffusers 0.42 give attention a mask for the padding of prompts (models/transformers/).

Others may, where prompts of several lengths share a batch."""


def chosen(name: str, kernel: str = "auto") -> Backend:
    """The backend that a name of files stands for here: `sage` depends on the version that is installed.

    Args:
        name: One of `BACKENDS`.
        kernel: One of `SAGE_KERNELS`, which only version 2 has, or `auto`.
    """
    backend = BACKENDS[name]
    if name != "sage":
        return backend
    if kernel == "auto":
        assert backend.package is not None
        installed = _installed(*backend.package)
        return SAGE_1 if installed is None or _older(installed, "2") else backend
    capability, only = SAGE_KERNELS[kernel]
    about = f"{backend.about}; the kernel {kernel}"
    return replace(backend, library=f"_sage_qk_int8_pv_{kernel}", about=about, capability=capability, only=only)


def machine(backend: Backend, device: str | None = None) -> Reason | None:
    """Why this machine cannot use a backend, None if it can.

    Args:
        backend: The backend.
        device: Device of the run, `cpu` or `cuda`; without it, the GPU if there is one.
    """
    if backend.capability is None:
        return None
    instead = "`sdpa` works everywhere"
    if backend.package is not None:
        installed = _installed(*backend.package)
        if installed is None:
            return Reason(
                "unavailable", f"{backend.name} needs {_wanted(backend)}, which is not installed", backend.install
            )
        if backend.least and _older(installed, backend.least):
            why = f"{backend.name} needs {_wanted(backend)}, and {installed} is installed"
            return Reason("unavailable", why, backend.install)
    least = f"an NVIDIA GPU of compute capability {_words(backend)}"
    found = None if device == "cpu" else gpu()
    if found is None:
        where = "the run is on the CPU" if device == "cpu" else "there is none"
        return Reason("unavailable", f"{backend.name} needs {least}, and {where}", instead)
    if found < backend.capability or (backend.only and found[0] not in backend.only):
        why = f"{backend.name} needs {least}, and this one has {found[0]}.{found[1]}"
        return Reason("unavailable", why, instead)
    return None


def model(backend: Backend, *, dtype: str | None, head: int | None, masks: Masks) -> Reason | None:
    """Why a backend cannot serve a transformer, None if it can or what decides is not known.

    Args:
        backend: The backend.
        dtype: Name of the transformer's dtype.
        head: Size of its attention heads.
        masks: Whether it gives attention a mask.
    """
    takers = ", ".join(b.name for b in BACKENDS.values() if b.masks == "applied")
    if dtype is not None and backend.dtypes and dtype not in backend.dtypes:
        wanted = " or ".join(backend.dtypes)
        return Reason(
            "unsupported",
            f"{backend.name} takes {wanted}, and the model is in {dtype}",
            f"load it with dtype: {wanted}",
        )
    if head is not None and backend.heads and (head > backend.heads or head % 8):
        why = f"{backend.name} takes heads of a multiple of 8 up to {backend.heads}, and this model's have {head}"
        return Reason("unsupported", why, "`sdpa` takes any size")
    if head is not None and backend.sizes and head not in backend.sizes:
        wanted = " or ".join(map(str, backend.sizes))
        why = f"{backend.name} takes heads of {wanted}, and this model's have {head}"
        return Reason("unsupported", why, "`sdpa` takes any size")
    if masks == "always" and backend.masks != "applied":
        why = f"{backend.name} takes no mask, and this model masks the padding of its prompt"
        return Reason("unsupported", why, f"masks are applied by {takers}")
    if masks == "sometimes" and backend.masks == "wrong":
        why = f"{backend.name} would apply a mask wrongly, and this model may pass one"
        return Reason("unsupported", why, f"masks are applied by {takers}")
    return None


def head_size(config: Mapping[str, Any]) -> int | None:
    """Size of the attention heads of a transformer, from its configuration."""
    if "attention_head_dim" in config:
        return int(config["attention_head_dim"])
    if "dim" in config and "n_heads" in config:  # Z-Image
        return int(config["dim"]) // int(config["n_heads"])
    return None


def notes() -> dict[str, str]:
    """Each backend with whether this machine can use it, and why not."""
    found = {}
    for backend in map(chosen, BACKENDS):
        reason = machine(backend)
        if reason is None:
            installed = _installed(*backend.package) if backend.package else None
            state = f"available{f' ({installed})' if installed else ''}"
        else:
            state = f"not available: {reason.why}"
        found[backend.name] = f"{state}; {backend.about}"
    return found


@cache
def gpu() -> Capability | None:
    """Compute capability of the first GPU, asked of NVIDIA's driver (importing torch takes seconds); None without one.

    A torch that was built for CPUs cannot use it, so that there is none then either.
    """
    if "+cpu" in (_installed("torch", "torch") or ""):
        return None
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        # 75 and 76: CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of cuda.h
        answers = [driver.cuInit(0), driver.cuDeviceGet(ctypes.byref(device), 0)]
        for value, attribute in ((major, 75), (minor, 76)):
            answers.append(driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device))
    except (OSError, AttributeError):
        return None
    return None if any(answers) else (major.value, minor.value)


def _installed(package: str, module: str) -> str | None:
    """Version of an installed package whose module can be found.

    A module in another is looked for as a folder: finding it would import the other, which may import torch.
    """
    outer, *inner = module.split(".")
    try:
        spec = importlib.util.find_spec(outer)
        if spec is None:
            return None
        if inner and not any(Path(at, *inner).is_dir() for at in spec.submodule_search_locations or ()):
            return None
        return version(package)
    except (PackageNotFoundError, ValueError):
        return None


def _older(installed: str, least: str) -> bool:
    from packaging.version import InvalidVersion, Version

    try:
        return Version(installed) < Version(least)
    except InvalidVersion:
        return False


def _wanted(backend: Backend) -> str:
    assert backend.package is not None
    return backend.package[0] + (f" {backend.least} or newer" if backend.least else "")


def _words(backend: Backend) -> str:
    assert backend.capability is not None
    name = ARCHITECTURES[backend.capability]
    major, minor = backend.capability
    if backend.only == (major,) and not minor:
        return f"{major}.x ({name})"
    but = f", but only {', '.join(f'{m}.x' for m in backend.only)}" if backend.only else ""
    return f"{major}.{minor} or higher ({name} or newer){but}"
