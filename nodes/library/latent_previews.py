"""Previews of a denoise loop: the clip as it would be without the noise that is left, by a linear map to colours.

A step predicts the velocity from the clip to the noise, v = noise - clip. The latents at noise level s are
(1 - s) clip + s noise, so latents - s v is the clip that the step predicts (flow matching, 2210.02747). It is what the
scheduler's `step` computes too. It shows the picture long before the noise is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...graph.contract.diagnostics import Diagnostic
from ...graph.contract.events import CallInfo
from ...graph.contract.facts import NodeFacts
from ...graph.contract.previews import Picture, Previews
from ..support.lazy import lazy
from ..support.preview_colours import KNOWN, PreviewColours, colours_of
from ..value_facts import ModelFacts
from ..values import Latents, Step, Velocity

if TYPE_CHECKING:
    import torch

    from ..models.model import Model
else:
    torch = lazy("torch")

PREDICT, STEP = "denoiser.predict", "schedule.step"

MOST_CLIPS = 4
"""Clips of a batch that a preview shows, side by side."""

LONGEST = 512
"""Pixels of the longer side of a picture, if the clip has as many."""


class LatentPreviews(Previews):
    """Makes a picture after a `schedule.step`, of the middle frame of a clip."""

    hears = frozenset({PREDICT, STEP})
    makes = frozenset({STEP})

    def __init__(self) -> None:
        self._model: Model | None = None
        self._given: tuple[Latents, Velocity, Step] | None = None
        self._maps: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def problem(self, type: str, facts: NodeFacts) -> Diagnostic | None:
        model = getattr(facts, "model", None)
        if type != PREDICT or not isinstance(model, ModelFacts):
            return None
        config = model.config("vae")
        if not config or colours_of(config) is not None:
            return None
        return Diagnostic("unavailable", _unknown(model.family or "this model"), "model", help=_KNOWN)

    def started(self, call: CallInfo, arguments: Mapping[str, Any]) -> None:
        if call.type.name == PREDICT:
            self._model = arguments["model"]
        else:
            self._given = arguments["latents"], arguments["velocity"], arguments["step"]

    def picture(self, call: CallInfo) -> Picture | None:
        given, self._given = self._given, None
        if given is None or self._model is None:
            return None
        latents, velocity, step = given
        model, family = self._model, self._model.family
        colours = colours_of(model.config("vae"))
        if colours is None:
            raise ValueError(_unknown(family.name))
        configs = {part: model.config(part) for part in ("vae", "transformer")}
        noisy, direction = (
            middle_frame(family.unpack(tensor[:MOST_CLIPS], latents.size, configs)).float()
            for tensor in (latents.tensor, velocity.tensor)
        )
        if colours.vae not in self._maps:
            self._maps[colours.vae] = on_device(colours, noisy.device)
        pixels = on_host(to_bytes(noisy - step.sigma * direction, *self._maps[colours.vae]))
        width, height = latents.size.width, latents.size.height

        def png() -> bytes:
            return encoded(pixels(), width, height)

        return png


def middle_frame(latents: torch.Tensor) -> torch.Tensor:
    """The middle frame [B, C, H, W] of latents [B, C, F, H, W]; latents [B, C, H, W] as they are."""
    return latents[:, :, latents.shape[2] // 2] if latents.ndim == 5 else latents


def on_device(colours: PreviewColours, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Factors [C, 3] and bias [3] on a device. A GPU copies them when it comes to it, and nothing waits for it."""
    numbers = torch.tensor(colours.factors), torch.tensor(colours.bias)
    if device.type != "cuda":
        return numbers
    factors, bias = (tensor.pin_memory().to(device, non_blocking=True) for tensor in numbers)
    return factors, bias


def to_bytes(latents: torch.Tensor, factors: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Colours, uint8 [B, H, W, 3], of normalised latents [B, C, H, W]."""
    made = torch.einsum("bchw,cr->bhwr", latents, factors) + bias  # in [-1, 1]
    return ((made.clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8)


def on_host(pixels: torch.Tensor) -> Any:
    """A function that gives the tensor on the CPU. Only the function waits for the device, not this one."""
    if pixels.device.type != "cuda":
        return lambda: pixels
    copy = torch.empty(pixels.shape, dtype=pixels.dtype, pin_memory=True)
    copy.copy_(pixels, non_blocking=True)
    done = torch.cuda.Event()
    done.record()

    def wait() -> torch.Tensor:
        done.synchronize()
        return copy

    return wait


def encoded(pixels: torch.Tensor, width: int, height: int) -> bytes:
    """A PNG file of clips side by side, each `width` x `height` pixels, or smaller with the same shape."""
    from io import BytesIO

    from PIL import Image

    scale = min(1.0, LONGEST / max(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    sheet = Image.new("RGB", (size[0] * len(pixels), size[1]))
    for number, clip in enumerate(pixels.numpy()):
        sheet.paste(Image.fromarray(clip).resize(size, Image.Resampling.BICUBIC), (number * size[0], 0))
    file = BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()


def _unknown(name: str) -> str:
    return f"there are no previews for the VAE of {name}: no map from its latents to colours is known"


_KNOWN = f"leave out --preview; previews are known for the VAEs of {', '.join(known.vae for known in KNOWN)}"
