"""LPIPS (Zhang et al. 2018), by the package lpips: the distance of two frames by the features of a trained network.

The package holds the weights of the linear layers on top. The user names a file with the weights of the network, as
torchvision saves them. Nothing is downloaded.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...graph.contract.errors import NodeError
from .input_files import require_file
from .lazy import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

SMALLEST = 32
"""The least width and height in pixels for the last layers of the networks."""

NETWORKS = {"vgg": "features.28.weight", "squeeze": "features.12.squeeze.weight", "alex": "features.10.weight"}
"""The last weight of each network, by which a file is recognised."""


def unavailable() -> str | None:
    """The reason why LPIPS cannot be computed here, whatever the weights; None if it can."""
    try:
        importlib.import_module("lpips")
    except Exception as error:  # its own imports fail in many ways: torchvision must fit torch
        if isinstance(error, ModuleNotFoundError):
            return f"the package {error.name} is not installed: `pip install 'sgd[lpips]'`"
        return f"the package lpips cannot be imported: {' '.join(str(error).split())[:200]}"
    return None


def too_small(frame: torch.Tensor) -> str | None:
    """The reason why a frame [H, W, 3] is too small for a network; None if it is not."""
    if min(frame.shape[:2]) >= SMALLEST:
        return None
    return f"it needs frames of at least {SMALLEST}x{SMALLEST} pixels"


def distance(frame: torch.Tensor, reference: torch.Tensor, weights: Path) -> float:
    """LPIPS of two frames [H, W, 3] of one size, at least `SMALLEST` pixels wide and high, with values in [0, 1].

    Args:
        frame: The frame.
        reference: The other one; both may be on any device, and that of `reference` computes.
        weights: The file of the network's weights.

    Returns:
        0 for equal frames; about 0.5 and more for frames that have nothing in common.

    Raises:
        NodeError: If the file cannot be read, or holds no weights of a known network.
    """
    state = weights.stat() if weights.exists() else None
    network = _network(weights, None if state is None else (state.st_size, state.st_mtime_ns), reference.device)
    x, y = (each.permute(2, 0, 1)[None].float().to(reference.device) for each in (frame, reference))
    with torch.no_grad():
        return float(network(x, y, normalize=True))


@lru_cache(maxsize=1)
def _network(weights: Path, _: object, device: torch.device) -> Any:
    """The network of the package on a device, with the weights of a file."""
    lpips: Any = importlib.import_module("lpips")
    found = read_weights(weights)
    name = next((name for name, last in NETWORKS.items() if last in found), None)
    if name is None:
        raise NodeError(
            f"{weights} holds no weights of AlexNet, SqueezeNet 1.1 or VGG16",
            help="name a file with the weights of torchvision, such as alexnet-owt-7be5be79.pth",
        )
    with warnings.catch_warnings(action="ignore"):  # torchvision's: the package uses old names
        network = lpips.LPIPS(net=name, pnet_rand=True, verbose=False)  # `pnet_rand`: it downloads no weights
    own = {}
    for key, value in network.net.state_dict().items():
        theirs = f"features.{key.split('.', 1)[1]}"  # the package cuts the layers into slices, and keeps their numbers
        if theirs not in found or found[theirs].shape != value.shape:
            help = "name a file with the weights of torchvision, unchanged"
            raise NodeError(f"{weights}: {theirs} is missing, or has another shape than in {name}", help=help)
        own[key] = found[theirs]
    network.net.load_state_dict(own)
    return network.to(device).eval().requires_grad_(False)


def read_weights(path: Path) -> Mapping[str, torch.Tensor]:
    """The tensors of a file of safetensors or of torch, which may hold nothing else.

    Raises:
        NodeError: If the file is missing or damaged, or holds more than tensors.
    """
    require_file(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = " ".join(str(error).split()).split(". ")[0][:200]
        help = "name a file of safetensors, or one of torch that holds tensors alone"
        raise NodeError(f"{path} cannot be read: {reason}", help=help) from error
    if not isinstance(found, dict) or not all(isinstance(each, torch.Tensor) for each in found.values()):
        raise NodeError(f"{path} holds no table of tensors", help="name a file with the weights of a network alone")
    return found
