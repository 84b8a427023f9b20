"""Put a rebuilt decoder and encoder into a view of a VAE. Everything else, tiles included, stays diffusers'."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...support import cost_meter
from .convolution_choice import refused
from .hunyuan_video_decoder import HunyuanVideoDecoder
from .leaving_frames import LeavingFrames
from .strip_rows import everywhere, has_strips
from .wan_decoder import WanDecoder
from .wan_encoder import GROUP, WanEncoder

OVERFLOW = "{work} in float16 gave values that are not finite; {what} in {dtype}"
NOT_FINITE = "the {given} have values that are not finite, and so have the {made}; the cause lies before this node"


def rebuild(vae: nn.Module, warn: Callable[[str], None]) -> str | None:
    """Let a VAE decode with the rebuilt decoder of its class, and encode with the rebuilt encoder if there is one.

    Each takes the VAE's weights at its first call. Those weights must be in memory then, and may not move later.

    Args:
        vae: A view of a VAE of diffusers.
        warn: Receives warnings at a call.

    Returns:
        None, or the reason why the VAE stays as it is.
    """
    match type(vae).__name__:
        case "AutoencoderKLHunyuanVideo":
            vae.decoder.forward = _HunyuanVideo(vae.decoder)  # type: ignore[union-attr]
        case "AutoencoderKLWan":
            vae._decode = decode = _WanDecode(vae, warn)  # type: ignore[assignment]
            vae.decode_frames = decode.frames  # type: ignore[assignment]
            vae._encode = _WanEncode(vae, warn)  # type: ignore[assignment]
        case other:
            return f"there is no rebuilt decoder of {other}"
    return None


def is_rebuilt(vae: Any, part: str) -> bool:
    """Whether a view of a VAE has a rebuilt `decoder` or `encoder`."""
    method = {"decoder": "_decode", "encoder": "_encode"}[part]
    return isinstance(vars(vae).get(method), _WanWork) or isinstance(
        vars(getattr(vae, part)).get("forward"), _HunyuanVideo
    )


def refused_kernels(vae: Any, device: str) -> str | None:
    """The convolutions of a rebuilt VAE that cuDNN computes though the card has a kernel, with the reasons; or None."""
    if type(vae).__name__ != "AutoencoderKLWan":
        return None
    place = torch.device(device)
    return refused(vae, place, working_dtype(vae, place))


def working_dtype(vae: Any, device: torch.device) -> torch.dtype:
    """The dtype in which a rebuilt VAE works. A plan on the meta device is one for a GPU.

    Wan's VAE in float32 works in float16 on a GPU. float16 has as many digits as the TF32 of its convolutions there.
    """
    dtype: torch.dtype = vae.dtype
    narrows = type(vae).__name__ == "AutoencoderKLWan" and device.type in ("cuda", "meta")
    return torch.float16 if narrows and dtype is torch.float32 else dtype


class _HunyuanVideo:
    """The `forward` of HunyuanVideo's decoder. diffusers calls it for each tile in time and space."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.made: HunyuanVideoDecoder | None = None

    def __call__(self, hidden_states: Tensor) -> Tensor:
        if self.made is None:
            self.made = HunyuanVideoDecoder(self.module)
        return self.made(hidden_states)


class _WanWork:
    """A method of Wan's VAE, rebuilt."""

    def __init__(self, vae: Any, warn: Callable[[str], None], name: str) -> None:
        self.vae, self.warn = vae, warn
        self.own = getattr(type(vae), name).__get__(vae)

    def dtype(self, given: Tensor) -> torch.dtype:
        """The dtype of the work."""
        return working_dtype(self.vae, given.device)

    def overflowed(self, work: str, what: str) -> None:
        """Warn that values of float16 were not enough."""
        self.warn(OVERFLOW.format(work=work, what=what, dtype=str(self.vae.dtype).removeprefix("torch.")))

    def unusable(self, values: Tensor, given: str, made: str) -> bool:
        """Whether some of the given values are not finite, so that no dtype helps. Warns of them."""
        if everywhere(torch.isfinite(values).all()):
            return False
        self.warn(NOT_FINITE.format(given=given, made=made))
        return True


class _WanDecode(_WanWork):
    """The method `_decode`."""

    def __init__(self, vae: Any, warn: Callable[[str], None]) -> None:
        super().__init__(vae, warn, "_decode")
        self.made: WanDecoder | None = None

    def __call__(self, z: Tensor, return_dict: bool = True) -> Any:
        if self._tiles(z):
            return self.own(z, return_dict=return_dict)
        clips = []
        for latents in self.vae.post_quant_conv(z):
            parts: dict[int, Tensor] = {}
            self._decoded(latents, parts.__setitem__)
            clips.append(torch.cat(list(parts.values()), dim=1).to(self.vae.dtype))
        found = torch.stack(clips)
        if not return_dict:
            return (found,)
        from diffusers.models.autoencoders.vae import DecoderOutput

        return DecoderOutput(sample=found)

    def frames(self, z: Tensor) -> Tensor | None:
        """Decode latents, [B, c, T, h, w], into frames that leave a GPU while it decodes the next ones.

        Returns:
            [B, F, H, W, 3] in [0, 1], float32, in the host's memory; on the device of `z` if other processes have the
            other rows; None if the VAE works in tiles.
        """
        if self._tiles(z):
            return None
        vae, (batch, _, count, height, width) = self.vae, z.shape
        times, scale = self._decoder(z).factors
        scale *= vae.config.patch_size or 1
        size = batch, 1 + (count - 1) * times, height * scale, width * scale, 3
        if has_strips():  # strips are gathered on their devices
            out = torch.empty(size, device=z.device)
        else:
            out = cost_meter.on_host(lambda: torch.empty(size, device="meta" if z.is_meta else "cpu"))
        for latents, clip in zip(vae.post_quant_conv(z), out, strict=True):
            leaving = LeavingFrames(clip)

            def put(start: int, video: Tensor, leaving: LeavingFrames = leaving) -> None:
                # In the VAE's dtype, as diffusers' `VideoProcessor`.
                pixels = (video.to(vae.dtype) * 0.5 + 0.5).clamp(0, 1)
                leaving.put(start, pixels.permute(1, 2, 3, 0).float().contiguous())

            self._decoded(latents, put)
            leaving.end()
        return out

    def _decoder(self, latents: Tensor) -> WanDecoder:
        if self.made is None:
            self.made = WanDecoder(self.vae.decoder, self.dtype(latents))
        return self.made

    def _tiles(self, z: Tensor) -> bool:
        over = max(z.shape[-2] - _tile(self.vae, "height"), z.shape[-1] - _tile(self.vae, "width"))
        return bool(self.vae.use_tiling) and over > 0

    def _decoded(self, latents: Tensor, put: Callable[[int, Tensor], None]) -> None:
        """Decode one clip, [c, T, h, w]. Chunks that overflow are decoded again in the VAE's own dtype.

        The host asks the device once, after the last chunk, for values that are not finite. It looks at the latents and
        at single chunks only if there are any.

        Args:
            latents: The latents.
            put: Receives the number of the first frame, and frames [3, F, H, W] in [-1, 1].
        """
        decoder, finite, start = self._decoder(latents), [], 0
        watches = decoder.dtype is not self.vae.dtype and not latents.is_meta
        for part in decoder.chunks(latents):
            if watches:
                finite.append(torch.isfinite(part).all())
            put(start, self._pixels(part))
            start += part.shape[1]
            del part
        if not finite or everywhere(torch.stack(finite).all()):
            return
        if self.unusable(latents, "latents", "frames"):
            return
        start = 0
        for part in decoder.chunks(latents, again=WanDecoder(self.vae.decoder, self.vae.dtype)):
            put(start, self._pixels(part))
            start += part.shape[1]
        self.overflowed("decoding", "chunks that overflow are decoded again")

    def _pixels(self, part: Tensor) -> Tensor:
        """The frames of a chunk, [3, F, H, W]."""
        patch = self.vae.config.patch_size
        if patch is None:
            return part
        from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify

        found: Tensor = unpatchify(part[None], patch_size=patch)[0]
        return found


class _WanEncode(_WanWork):
    """The method `_encode`."""

    def __init__(self, vae: Any, warn: Callable[[str], None]) -> None:
        super().__init__(vae, warn, "_encode")
        self.made: WanEncoder | None = None

    def __call__(self, x: Tensor) -> Tensor:
        vae, (height, width) = self.vae, x.shape[-2:]
        if vae.use_tiling and (width > vae.tile_sample_min_width or height > vae.tile_sample_min_height):
            return self.own(x)  # type: ignore[no-any-return]
        video = x
        if vae.config.patch_size is not None:
            from diffusers.models.autoencoders.autoencoder_kl_wan import patchify

            video = patchify(x, patch_size=vae.config.patch_size)
        if self.made is None:
            self.made = WanEncoder(vae.encoder, self.dtype(x))
        encoder = self.made
        # In float16 twice as many frames take the memory that diffusers takes.
        chunk = 2 * GROUP if encoder.dtype is not vae.dtype else GROUP
        found = torch.stack([encoder(clip, chunk) for clip in video])
        watches = encoder.dtype is not vae.dtype and not x.is_meta
        if watches and not everywhere(torch.isfinite(found).all()) and not self.unusable(x, "frames", "latents"):
            self.overflowed("encoding", "the clip is encoded again")
            encoder = WanEncoder(vae.encoder, vae.dtype)
            found = torch.stack([encoder(clip) for clip in video])
        return vae.quant_conv(found.to(vae.dtype))  # type: ignore[no-any-return]


def _tile(vae: Any, side: str) -> int:
    """The largest side of latents that diffusers decodes without tiles."""
    size: int = getattr(vae, f"tile_sample_min_{side}") // vae.spatial_compression_ratio
    return size
