"""The rows of the table of speed, in its order: works, floors, targets, and published times of other projects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

RATE = 790e12
"""Operations a second of a large bfloat16 product on an H100 that its power does not limit: floors divide by it."""


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        name: Its name on the command line.
        title: Its name in the table.
        kind: `step`, `decode`, `start` or `gate`.
        work: The name of the work in the module of its kind.
        targets: Seconds by way.
        operations: Operations of the work as diffusers does it; 0 if it has no floor.
        peer: The best published time of another project.
        least: Seconds that measuring takes on an H100, with empty caches of kernels.
        share: The largest share of the time of `diffusers` that `exact` may take; 0 if `targets` has seconds.
    """

    name: str
    title: str
    kind: str
    work: str
    targets: Mapping[str, float] = field(default_factory=dict)
    operations: float = 0.0
    peer: str = ""
    least: int = 60
    share: float = 0.0

    @property
    def floor(self) -> float | None:
        """Seconds of the operations at `RATE`; None if they are not counted."""
        return self.operations / RATE if self.operations else None


def _rows() -> tuple[Row, ...]:
    hunyuan, wan, ti2v = "HunyuanVideo 848×480×65", "Wan 2.1 1.3B 832×480×81", "Wan 2.2 TI2V 5B 1280×704×121"
    both = "a step, both branches"
    return (
        Row("hunyuan", f"{hunyuan}, a step", "step", "hunyuan", {"exact": 1.35, "fast": 0.96}, 916e12,
            "SGLang 1.38", 150),
        Row("hunyuan-decode", f"{hunyuan}, decode", "decode", "hunyuan", {"exact": 1.0}, 655e12, "SGLang 14.5", 50),
        Row("flux", "FLUX.1-dev 1024², a step", "step", "flux", {"exact": 0.120, "fast": 0.095}, 74.3e12,
            "SGLang 0.129", 80),
        Row("qwen", f"Qwen-Image 1024², {both}", "step", "qwen", {"exact": 0.228}, 137.9e12, "SGLang 0.248", 110),
        Row("qwen-1328", f"Qwen-Image 1328², {both}", "step", "qwen-1328", {"exact": 0.32}, 258e12, "", 110),
        Row("z", "Z-Image-Turbo 1024², a step", "step", "z", {"exact": 0.087, "fast": 0.075}, 55.1e12,
            "SGLang 0.0826", 70),
        Row("wan", f"{wan}, {both}", "step", "wan", {"exact": 0.85}, 565e12, "diffusers compiled 1.05 (H200)", 80),
        Row("wan-decode", f"{wan}, decode", "decode", "wan2.1", {"exact": 0.65}, 275.35e12, "", 50),
        Row("a14b", f"Wan 2.2 A14B 832×480×81, {both}", "step", "a14b", {"exact": 5.0}, 3357e12, "", 190),
        Row("ti2v", f"{ti2v}, {both}", "step", "ti2v", {"exact": 1.55}, 1032e12, "", 110),
        Row("ti2v-decode", f"{ti2v}, decode", "decode", "wan2.2", {"exact": 3.2}, 2011e12, "", 90),
        Row("start", "a process, kernels and files cached", "start", "z",
            {"until `text.encode`": 3.0, "first step": 3.0}, least=120),
        Row("gate", "FLUX.1-dev 1024², 28 steps, `cache.scm`", "gate", "flux", least=90, share=0.97),
        Row("wan-encode", "Wan 2.1 1.3B 832×480×81, encode of a first frame's clip", "decode", "wan2.1-encode",
            least=60),
        Row("ti2v-encode", "Wan 2.2 TI2V 5B 1280×704, encode of a first frame", "decode", "wan2.2-encode", least=40),
    )  # fmt: skip


ROWS = {row.name: row for row in _rows()}
