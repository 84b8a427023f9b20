"""Linear maps from the latents of published VAEs to colours, for previews. Torch-free.

A position of normalised latents, as the denoise loop has them, times the factors plus the bias is a colour in [-1, 1].
A VAE is known by the numbers that normalise its latents, since a repository's name and family say little about it:
Qwen-Image has the VAE of Wan 2.1, and Z-Image that of FLUX.1.

The numbers of published VAEs are those that ComfyUI measured (Comfy-Org/ComfyUI, comfy/latent_formats.py at commit
9a9a69fd745de98e89b0f1a629cd3bc43d513a42, `latent_rgb_factors` and `latent_rgb_factors_bias` of each class). Those of
the embedded model are from training/preview_colours.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = tuple[float, float, float]


@dataclass(frozen=True)
class PreviewColours:
    """The map of one VAE.

    Attributes:
        vae: The VAE, in words.
        factors: Red, green and blue of each channel.
        bias: Red, green and blue.
        mean: The first entries of `latents_mean` of its configuration; empty if it has none.
        scaling: `scaling_factor` of its configuration; None if it has none.
        shift: `shift_factor` of its configuration; None if it has none.
    """

    vae: str
    factors: tuple[Row, ...]
    bias: Row
    mean: tuple[float, ...] = ()
    scaling: float | None = None
    shift: float | None = None

    def fits(self, config: Mapping[str, Any]) -> bool:
        """Whether a VAE with this configuration makes the latents that the map is for."""
        channels = config.get("z_dim", config.get("latent_channels"))
        if channels != len(self.factors):
            return False
        if self.mean:
            return _near(config.get("latents_mean"), self.mean)
        given = config.get("scaling_factor"), config.get("shift_factor")
        return not config.get("latents_mean") and given == (self.scaling, self.shift)


def _near(given: Any, mean: Sequence[float]) -> bool:
    if not isinstance(given, list | tuple) or len(given) < len(mean):
        return False
    pairs = zip(given, mean, strict=False)
    return all(isinstance(one, int | float) and abs(one - other) < 1e-4 for one, other in pairs)


def colours_of(config: Mapping[str, Any]) -> PreviewColours | None:
    """The map for a VAE with this configuration; None if its numbers are not known."""
    return next((known for known in KNOWN if known.fits(config)), None)


WAN_2_1: tuple[Row, ...] = (
    (-0.1299, -0.1692, 0.2932),
    (0.0671, 0.0406, 0.0442),
    (0.3568, 0.2548, 0.1747),
    (0.0372, 0.2344, 0.1420),
    (0.0313, 0.0189, -0.0328),
    (0.0296, -0.0956, -0.0665),
    (-0.3477, -0.4059, -0.2925),
    (0.0166, 0.1902, 0.1975),
    (-0.0412, 0.0267, -0.1364),
    (-0.1293, 0.0740, 0.1636),
    (0.0680, 0.3019, 0.1128),
    (0.0032, 0.0581, 0.0639),
    (-0.1251, 0.0927, 0.1699),
    (0.0060, -0.0633, 0.0005),
    (0.3477, 0.2275, 0.2950),
    (0.1984, 0.0913, 0.1861),
)
"""Class Wan21."""

WAN_2_2: tuple[Row, ...] = (
    (0.0119, 0.0103, 0.0046),
    (-0.1062, -0.0504, 0.0165),
    (0.0140, 0.0409, 0.0491),
    (-0.0813, -0.0677, 0.0607),
    (0.0656, 0.0851, 0.0808),
    (0.0264, 0.0463, 0.0912),
    (0.0295, 0.0326, 0.0590),
    (-0.0244, -0.0270, 0.0025),
    (0.0443, -0.0102, 0.0288),
    (-0.0465, -0.0090, -0.0205),
    (0.0359, 0.0236, 0.0082),
    (-0.0776, 0.0854, 0.1048),
    (0.0564, 0.0264, 0.0561),
    (0.0006, 0.0594, 0.0418),
    (-0.0319, -0.0542, -0.0637),
    (-0.0268, 0.0024, 0.0260),
    (0.0539, 0.0265, 0.0358),
    (-0.0359, -0.0312, -0.0287),
    (-0.0285, -0.1032, -0.1237),
    (0.1041, 0.0537, 0.0622),
    (-0.0086, -0.0374, -0.0051),
    (0.0390, 0.0670, 0.2863),
    (0.0069, 0.0144, 0.0082),
    (0.0006, -0.0167, 0.0079),
    (0.0313, -0.0574, -0.0232),
    (-0.1454, -0.0902, -0.0481),
    (0.0714, 0.0827, 0.0447),
    (-0.0304, -0.0574, -0.0196),
    (0.0401, 0.0384, 0.0204),
    (-0.0758, -0.0297, -0.0014),
    (0.0568, 0.1307, 0.1372),
    (-0.0055, -0.0310, -0.0380),
    (0.0239, -0.0305, 0.0325),
    (-0.0663, -0.0673, -0.0140),
    (-0.0416, -0.0047, -0.0023),
    (0.0166, 0.0112, -0.0093),
    (-0.0211, 0.0011, 0.0331),
    (0.1833, 0.1466, 0.2250),
    (-0.0368, 0.0370, 0.0295),
    (-0.3441, -0.3543, -0.2008),
    (-0.0479, -0.0489, -0.0420),
    (-0.0660, -0.0153, 0.0800),
    (-0.0101, 0.0068, 0.0156),
    (-0.0690, -0.0452, -0.0927),
    (-0.0145, 0.0041, 0.0015),
    (0.0421, 0.0451, 0.0373),
    (0.0504, -0.0483, -0.0356),
    (-0.0837, 0.0168, 0.0055),
)
"""Class Wan22."""

FLUX_1: tuple[Row, ...] = (
    (-0.0346, 0.0244, 0.0681),
    (0.0034, 0.0210, 0.0687),
    (0.0275, -0.0668, -0.0433),
    (-0.0174, 0.0160, 0.0617),
    (0.0859, 0.0721, 0.0329),
    (0.0004, 0.0383, 0.0115),
    (0.0405, 0.0861, 0.0915),
    (-0.0236, -0.0185, -0.0259),
    (-0.0245, 0.0250, 0.1180),
    (0.1008, 0.0755, -0.0421),
    (-0.0515, 0.0201, 0.0011),
    (0.0428, -0.0012, -0.0036),
    (0.0817, 0.0765, 0.0749),
    (-0.1264, -0.0522, -0.1103),
    (-0.0280, -0.0881, -0.0499),
    (-0.1262, -0.0982, -0.0778),
)
"""Class Flux."""

HUNYUAN_VIDEO: tuple[Row, ...] = (
    (-0.0395, -0.0331, 0.0445),
    (0.0696, 0.0795, 0.0518),
    (0.0135, -0.0945, -0.0282),
    (0.0108, -0.0250, -0.0765),
    (-0.0209, 0.0032, 0.0224),
    (-0.0804, -0.0254, -0.0639),
    (-0.0991, 0.0271, -0.0669),
    (-0.0646, -0.0422, -0.0400),
    (-0.0696, -0.0595, -0.0894),
    (-0.0799, -0.0208, -0.0375),
    (0.1166, 0.1627, 0.0962),
    (0.1165, 0.0432, 0.0407),
    (-0.2315, -0.1920, -0.1355),
    (-0.0270, 0.0401, -0.0821),
    (-0.0616, -0.0997, -0.0727),
    (0.0249, -0.0469, -0.1703),
)
"""Class HunyuanVideo."""

TINY_WAN: tuple[Row, ...] = (
    (-0.0228, -0.0513, -0.0057),
    (0.0085, 0.0089, 0.0088),
    (0.0501, 0.0155, 0.0368),
    (-0.0231, -0.0644, -0.0524),
    (0.1501, 0.1756, -0.0117),
    (0.0772, 0.0564, 0.0089),
    (-0.0146, -0.0932, -0.4253),
    (0.0289, 0.1390, 0.0027),
    (0.3738, -0.0326, 0.0834),
    (0.0683, 0.0967, -0.0369),
    (-0.0644, 0.1682, 0.0612),
    (-0.0423, 0.0085, 0.0660),
    (0.0777, 0.1473, 0.0366),
    (0.0119, -0.0080, -0.1022),
    (0.0729, -0.0922, -0.0630),
    (0.0020, -0.0200, -0.0449),
)
"""training/preview_colours.py, `--clips 96`; 23.2 dB against the mean colours of 8 x 8 pixels of other clips."""


KNOWN = (
    PreviewColours("Wan 2.1 and Qwen-Image", WAN_2_1, (-0.1835, -0.0868, -0.3360), mean=(-0.7571, -0.7089, -0.9113)),
    PreviewColours("Wan 2.2 TI2V", WAN_2_2, (0.0317, -0.0878, -0.1388), mean=(-0.2289, -0.0052, -0.1323)),
    PreviewColours("FLUX.1 and Z-Image", FLUX_1, (-0.0329, -0.0718, -0.0851), scaling=0.3611, shift=0.1159),
    PreviewColours("HunyuanVideo", HUNYUAN_VIDEO, (0.0259, -0.0192, -0.0761), scaling=0.476986),
    PreviewColours("tiny-wan", TINY_WAN, (-0.0579, -0.0394, -0.0266), mean=(-0.16502, 0.01148, 0.02926)),
)
