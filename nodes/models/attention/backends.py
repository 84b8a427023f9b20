"""Checks whether this machine and this model can use an attention backend. Torch-free.

`model.attention`, its notes in `sgd nodes model.attention`, and `sgd doctor` call these checks. A requested backend
that cannot work is an error. No other backend replaces it.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any, Literal

from ....graph.contract.cards import planned_card
from ....graph.contract.device import card_number
from ....graph.contract.diagnostics import Diagnostic
from . import packages
from .backend_table import (
    ARCHITECTURES,
    BACKENDS,
    FLASH_3_FP8,
    FLASH_3_WHEEL,
    SAGE_1,
    SAGE_KERNELS,
    TRIED_WITH_FLASH_3,
    Backend,
    Capability,
    Masks,
)


def problem(code: Literal["unavailable", "unsupported"], message: str, help: str) -> Diagnostic:
    """A diagnostic for a backend that cannot be used. `help` names an alternative."""
    return Diagnostic(code, message, "backend", help=help)


def chosen(name: str, kernel: str = "auto", precision: str = "auto") -> Backend:
    """The backend for a name in a workflow file.

    `sage` means the installed version of SageAttention. `flash3` means the build from source if it is installed, and
    else the wheel on PyPI.

    Args:
        name: One of `BACKENDS`.
        kernel: `auto`, or one of `SAGE_KERNELS`, which need SageAttention 2.
        precision: `auto`, or `fp8`, which `flash3` has.
    """
    backend = BACKENDS[name]
    if precision == "fp8" and name == "flash3":
        return FLASH_3_FP8
    if name == "flash3":
        assert backend.package is not None
        return FLASH_3_WHEEL if packages.installed(*backend.package) is None else backend
    if name != "sage":
        return backend
    if kernel == "auto":
        assert backend.package is not None
        installed = packages.installed(*backend.package)
        return SAGE_1 if installed is None or packages.older(installed, "2") else backend
    capability, only = SAGE_KERNELS[kernel]
    about = f"{backend.about}; the kernel {kernel}"
    return replace(backend, library=f"_sage_qk_int8_pv_{kernel}", about=about, capability=capability, only=only)


def machine_problem(backend: Backend, device: str | None = None) -> Diagnostic | None:
    """The reason why this machine cannot use a backend; None if it can.

    Args:
        backend: The backend.
        device: Device of the run, such as `cpu`, `cuda` or `cuda:1`; None for the GPU if there is one.
    """
    if backend.capability is None:
        return None
    if planned_card() is not None and (reason := _card_problem(backend, device)) is not None:
        return reason  # no package would help there
    if backend.package is not None:
        installed = packages.installed(*backend.package)
        if installed is None:
            return problem(
                "unavailable", f"{backend.name} needs {_requirement(backend)}, which is not installed", backend.install
            )
        if backend.least and packages.older(installed, backend.least):
            why = f"{backend.name} needs {_requirement(backend)}, and {installed} is installed"
            return problem("unavailable", why, backend.install)
        broken = _broken(backend)
        if broken is not None:
            return broken
    return _card_problem(backend, device)


def _card_problem(backend: Backend, device: str | None) -> Diagnostic | None:
    """The reason why a device cannot use a backend, whatever is installed; None if it can."""
    assert backend.capability is not None
    instead = "`sdpa` works everywhere"
    least = f"an NVIDIA GPU of compute capability {_capability_range(backend)}"
    found = capability(device)
    if found is None:
        where = "the run is on the CPU" if device == "cpu" else "this machine has no GPU"
        return problem("unavailable", f"{backend.name} needs {least}, and {where}", instead)
    if found < backend.capability or (backend.only and found[0] not in backend.only):
        why = f"{backend.name} needs {least}, and {gpu_name()} has {found[0]}.{found[1]}"
        return problem("unavailable", why, instead)
    return None


def model_problem(backend: Backend, *, dtype: str | None, head: int | None, masks: Masks) -> Diagnostic | None:
    """The reason why a transformer cannot use a backend; None if it can, or if the facts are unknown.

    Args:
        backend: The backend.
        dtype: Name of the transformer's dtype; None if unknown.
        head: Head size of the transformer; None if unknown.
        masks: Whether the transformer passes attention a mask.
    """
    takers = ", ".join(b.name for b in BACKENDS.values() if b.masks == "applied")
    if dtype is not None and backend.dtypes and dtype not in backend.dtypes:
        wanted = " or ".join(backend.dtypes)
        return problem(
            "unsupported",
            f"{backend.name} takes {wanted}, and the dtype of the model is {dtype}",
            f"load the model with dtype: {wanted}",
        )
    if head is not None and backend.heads and (head > backend.heads or head % 8):
        sizes = f"{backend.name} takes head sizes in multiples of 8 up to {backend.heads}"
        why = f"{sizes}; this model's head size is {head}"
        return problem("unsupported", why, "`sdpa` takes any head size")
    if head is not None and backend.sizes and head not in backend.sizes:
        wanted = " or ".join(map(str, backend.sizes))
        why = f"{backend.name} takes a head size of {wanted}; this model's head size is {head}"
        return problem("unsupported", why, "`sdpa` takes any head size")
    if masks == "always" and backend.masks != "applied":
        why = f"{backend.name} takes no mask, and this model masks the padding of its prompt"
        return problem("unsupported", why, f"backends that apply masks: {takers}")
    if masks == "sometimes" and backend.masks == "wrong":
        why = f"{backend.name} would apply a mask wrongly, and this model may pass one"
        return problem("unsupported", why, f"backends that apply masks: {takers}")
    return None


def head_size(config: Mapping[str, Any]) -> int | None:
    """Head size of a transformer, from its configuration; None if the configuration does not give it."""
    if "attention_head_dim" in config:
        return int(config["attention_head_dim"])
    if "dim" in config and "n_heads" in config:  # Z-Image
        return int(config["dim"]) // int(config["n_heads"])
    return None


def notes() -> dict[str, str]:
    """For each backend, whether this machine can use it, and the reason if it cannot."""
    found = {}
    for backend in map(chosen, BACKENDS):
        reason = machine_problem(backend)
        if reason is None:
            installed = packages.installed(*backend.package) if backend.package else None
            state = f"available{f' ({installed})' if installed else ''}"
        else:
            state = f"not available: {reason.message}"
        found[backend.name] = f"{state}; {backend.about}"
    return found


def capability(device: str | None) -> Capability | None:
    """Compute capability of a device, such as `cuda:1`; None for a CPU. `cuda` and None mean the GPU of `gpu`."""
    if device == "cpu":
        return None
    number = card_number(device) if device is not None else None
    return gpu() if number is None else _of_card(number)


def gpu() -> Capability | None:
    """Compute capability of the card of a plan, or else of the first GPU; None without a GPU or with torch for CPUs."""
    card = planned_card()
    return _of_card(0) if card is None else card.capability


def gpu_name() -> str:
    """The GPU that `gpu` describes, for messages."""
    card = planned_card()
    return "this GPU" if card is None else f"the {card.title}"


@cache
def _of_card(number: int) -> Capability | None:
    """Compute capability of one of the GPUs that this process sees, from NVIDIA's driver.

    Importing torch would take seconds.
    """
    if "+cpu" in (packages.installed("torch", "torch") or ""):
        return None
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        # 75 and 76: CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of cuda.h
        answers = [driver.cuInit(0), driver.cuDeviceGet(ctypes.byref(device), number)]
        for value, attribute in ((major, 75), (minor, 76)):
            answers.append(driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device))
    except (OSError, AttributeError):
        return None
    return None if any(answers) else (major.value, minor.value)


def named(library: str) -> Backend | None:
    """The backend with a name in diffusers or in `kernels`; None for a kernel that a backend chose itself."""
    return next((b for b in (*BACKENDS.values(), SAGE_1, FLASH_3_WHEEL, FLASH_3_FP8) if b.library == library), None)


def _broken(backend: Backend) -> Diagnostic | None:
    """The reason why an installed package cannot be imported or has no kernels; None if it works."""
    name = backend.name
    if backend in (FLASH_3_WHEEL, FLASH_3_FP8):
        version = packages.installed("torch", "torch") or ""
        if not any(version == tried or version.startswith(f"{tried}.") for tried in TRIED_WITH_FLASH_3):
            why = f"fa3-fwd was tried with torch {' and '.join(TRIED_WITH_FLASH_3)}, and torch {version} is installed"
            return problem("unavailable", why, "`cudnn` and `flash4` are other backends for this GPU")
    if name in ("flash4", "xformers"):
        both = [("xformers", "xformers"), ("flash-attn-4", "flash_attn.cute")]
        if all(packages.installed(*each) for each in both) and not packages.installed("flash-attn", "flash_attn"):
            # xformers/ops/fmha/flash.py (0.0.35) takes any module flash_attn for version 2 and fails to import.
            # diffusers imports an installed xformers and then fails too.
            why = "xformers and diffusers fail to import if flash-attn-4 is installed without flash-attn"
            return problem("unavailable", why, "pip uninstall xformers")
    if name == "xformers":
        built, torch = packages.built_for("xformers"), packages.built_for("torch")
        if built and torch and built.split(".")[0] != torch.split(".")[0]:
            why = f"xformers was built for CUDA {built}, and torch for CUDA {torch}; xformers cannot load its kernels"
            return problem("unavailable", why, "install a build of xformers for the CUDA version of your torch")
    return None


def _requirement(backend: Backend) -> str:
    assert backend.package is not None
    return backend.package[0] + (f" {backend.least} or newer" if backend.least else "")


def _capability_range(backend: Backend) -> str:
    """The supported compute capabilities, such as `8.0 or higher (Ampere or newer)`."""
    assert backend.capability is not None
    name = ARCHITECTURES[backend.capability]
    major, minor = backend.capability
    if backend.only == (major,) and not minor:
        return f"{major}.x ({name})"
    but = f", but only {', '.join(f'{m}.x' for m in backend.only)}" if backend.only else ""
    return f"{major}.{minor} or higher ({name} or newer){but}"
