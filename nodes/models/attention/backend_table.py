"""The table of attention backends and their requirements on machine and model. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

Capability = tuple[int, int]
HALF = ("float16", "bfloat16")
ARCHITECTURES = {(7, 0): "Volta", (8, 0): "Ampere", (8, 9): "Ada", (9, 0): "Hopper"}


@dataclass(frozen=True)
class Backend:
    """One attention backend.

    Attributes:
        name: Name in workflow files.
        library: Name in diffusers' `AttentionBackendName`, or in `kernels.KERNELS`.
        about: A short description.
        package: Required distribution and its module; None if the backend is part of torch.
        least: Oldest version that works, from diffusers (models/attention_dispatch.py) or from `kernels`.
        install: Instruction for installing the package.
        capability: Lowest compute capability of the GPU; None if the backend also runs on a CPU.
        only: Major compute capabilities that have kernels; empty if every one from `capability` on has them.
        dtypes: Names of the supported dtypes; empty if every dtype works.
        heads: Largest head size, which must be a multiple of 8; 0 if there is no limit.
        sizes: The supported head sizes, for a backend that supports only a few.
        masks: `applied`; `refused` (a call with a mask fails); or `wrong`, for xformers: diffusers 0.42.1 adds a
            boolean mask of four dimensions to the scores as zeros and ones.
        exact: Differs from SDPA only by rounding. `auto` chooses among exact backends.
        precision: `fp8` if queries, keys and values are rounded to e4m3; else empty.
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
    precision: str = ""

    @property
    def title(self) -> str:
        """The name, with the precision if it is not that of the model."""
        return f"{self.name} ({self.precision})" if self.precision else self.name


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
            "FlashAttention 3, built from source",
            package=("flash_attn_3", "flash_attn_interface"),
            install="build the folder hopper/ of https://github.com/Dao-AILab/flash-attention, or pip install fa3-fwd",
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
"""The backend `sage` if the installed package is version 1 or is missing. PyPI has only version 1."""

FLASH_3_WHEEL = Backend(
    "flash3",
    "_sgd_flash_3",
    "FlashAttention 3 (forward only)",
    package=("fa3-fwd", "fa3_fwd"),
    least="0.0.3",
    install="pip install fa3-fwd",
    capability=(9, 0),
    only=(9,),
    dtypes=("bfloat16",),  # the wheel has no float16 kernels
    heads=256,
    masks="refused",
)
"""The backend `flash3` unless FlashAttention 3 was built from source. PyPI has only this forward kernel."""

FLASH_3_FP8 = replace(
    FLASH_3_WHEEL,
    library="_sgd_flash_3_fp8",
    about="FlashAttention 3 with queries, keys and values in e4m3, values centred; not exact",
    sizes=(64, 128, 256),  # sizes of its kernels for e4m3 that need no filling
    exact=False,
    precision="fp8",
)
"""The backend `flash3` with `precision: fp8`. A build from source is not used for it."""

TRIED_WITH_FLASH_3 = ("2.11",)
"""Minor versions of torch with which the wheel `fa3-fwd` was run."""

# Kernel name, lowest compute capability, and major capabilities. The package names a kernel after the precision of the
# values. Source: `sageattn` in core.py of https://github.com/thu-ml/SageAttention, which chooses the kernel for a GPU.
# The Triton kernel does not work on capability 12.0.
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
    "HunyuanVideoTransformer3DModel": "sometimes",  # no mask after text.encode cuts the padding
    "HunyuanVideo15Transformer3DModel": "always",
    "LTXVideoTransformer3DModel": "always",
}
"""The transformers of diffusers 0.42 that pass attention a mask for the padding of prompts (models/transformers/).

A transformer that is not listed may pass a mask when prompts of different lengths share a batch."""
