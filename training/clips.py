"""Procedural captioned clips: what the embedded model is taught, and nothing else.

A clip shows one flat shape that moves, grows or shrinks in front of a plain or shaded background.
It is drawn from signed distance functions with batched tensor code, so that any device can make
thousands of clips a second. Units: pixels for lengths (y points down), palette values 0..255 for
colours, frames for time. A rendered batch has the shape [N, 3, F, H, W] with values in [-1, 1].
"""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass, fields

import torch
from torch import Tensor

SIZE = 96  # height and width of a clip in pixels
FRAMES = 17  # 1 + 4 * 4: five latent frames after fourfold temporal compression
MARGIN = 3.0  # pixels that always stay free between the shape and the border

PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (225, 40, 40),
    "green": (40, 165, 60),
    "blue": (45, 75, 225),
    "yellow": (240, 220, 50),
    "purple": (150, 50, 190),
    "cyan": (60, 210, 225),
    "white": (240, 240, 240),
    "black": (20, 20, 20),
}
COLORS = list(PALETTE)
SHAPES = ["circle", "square", "triangle"]
MOTIONS = ["left", "right", "up", "down", "growing", "shrinking"]
SIZES = ["small", "large"]
GROWING, SHRINKING = MOTIONS.index("growing"), MOTIONS.index("shrinking")

Combo = tuple[str, str, str, str]  # (colour, shape, motion, background)
COMBOS: list[Combo] = [
    (color, shape, motion, background)
    for color, shape, motion, background in itertools.product(COLORS, SHAPES, MOTIONS, COLORS)
    if color != background
]
_order = random.Random(20240229).sample(COMBOS, len(COMBOS))
HELD_OUT: list[Combo] = _order[:100]  # never rendered and never written as a caption in training
TRAIN: list[Combo] = _order[100:]

# Smallest and largest radius in pixels, by size word (unsaid, small, large): constant radius of a
# moving shape; small end and large end of a growing or shrinking one. A small moving shape is at
# least 24 pixels wide, which is three latent cells.
_MOVING = torch.tensor([[12.0, 25.0], [12.0, 15.0], [20.0, 25.0]])
_GROW_FROM = torch.tensor([[9.0, 14.0], [9.0, 11.0], [13.0, 16.0]])
_GROW_TO = torch.tensor([[22.0, 32.0], [18.0, 21.0], [28.0, 34.0]])


def shade(color: Tensor) -> Tensor:
    """The far end of a gradient that starts at `color` [..., 3]: darker, or lighter for near-black."""
    dark = color.amax(-1, keepdim=True) < 60
    return torch.where(dark, color + 70, color * 0.55)


def caption(
    color: str, shape: str, motion: str, background: str, size: str | None = None, gradient: bool = False
) -> str:
    """The plain caption of a clip: "a small red circle moving left on a blue gradient background"."""
    what = " ".join(word for word in (size, color, shape) if word)
    how = motion if motion in ("growing", "shrinking") else f"moving {motion}"
    return f"a {what} {how} on a {background} {'gradient ' if gradient else ''}background"


_SIZE_WORDS = {"small": ["small", "tiny", "little"], "large": ["large", "big", "huge"]}
_GROW_WORDS = ["growing", "grows", "that is growing", "getting larger", "getting bigger", "expanding"]
_SHRINK_WORDS = ["shrinking", "shrinks", "that is shrinking", "getting smaller", "contracting"]
_GO_WORDS = ["moving {}", "moving to the {}", "moves {}", "going {}", "sliding {}", "that moves {}", "moving {}ward"]
_BACK_WORDS = ["on a {} background", "on {}", "over a {} background", "in front of a {} background"]
_BACK_WORDS += ["with a {} background", "against a {} background", "on the {} background", "{} background"]
_OPENINGS = ["", "", "", "a video of ", "the video shows ", "video , ", "an animation of ", "we see "]


@dataclass(frozen=True)
class Said:
    """The attributes that a caption names; None (or False) for one that it does not name."""

    color: str | None
    shape: str | None
    motion: str | None
    background: str | None
    size: str | None
    gradient: bool


def varied_caption(said: Said, rng: random.Random) -> str:
    """One of many ways to say the same; `___` stands for words that the model does not know."""
    size = rng.choice(_SIZE_WORDS[said.size]) if said.size else None
    what = " ".join(word for word in (size, said.color, said.shape or "shape") if word)
    article = rng.choice(["a ", "a ", "the ", ""])
    parts = [article + what]
    if said.motion == "growing":
        parts.append(rng.choice(_GROW_WORDS))
    elif said.motion == "shrinking":
        parts.append(rng.choice(_SHRINK_WORDS))
    elif said.motion:
        parts.append(rng.choice(_GO_WORDS).format(said.motion))
    if said.background:
        colour = f"{said.background} gradient" if said.gradient else said.background
        back = rng.choice(_BACK_WORDS).format(colour)
        parts.insert(0 if rng.random() < 0.15 else len(parts), back)
    text = rng.choice(_OPENINGS) + " ".join(parts)
    if rng.random() < 0.3:
        words = text.split()
        for _ in range(rng.randint(1, 3)):
            words.insert(rng.randint(0, len(words)), "___")
        text = " ".join(words)
    return text


@dataclass
class Clips:
    """N clips to draw. Attributes are indices [N]; tracks are pixels [N, F]; colours 0..255 [N, 3]."""

    color: Tensor
    shape: Tensor
    motion: Tensor
    background: Tensor
    size: Tensor  # 0 unsaid, 1 small, 2 large
    gradient: Tensor  # bool
    x: Tensor
    y: Tensor
    radius: Tensor
    paint: Tensor
    start: Tensor  # background colour at the left or upper border
    end: Tensor  # background colour at the opposite border
    vertical: Tensor  # bool: the gradient runs downwards rather than to the right

    def __len__(self) -> int:
        return len(self.color)

    def to(self, device: torch.device | str) -> Clips:
        return Clips(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def combo(self, i: int) -> Combo:
        color, shape, motion, background = (int(t[i]) for t in (self.color, self.shape, self.motion, self.background))
        return COLORS[color], SHAPES[shape], MOTIONS[motion], COLORS[background]

    def caption(self, i: int) -> str:
        size = int(self.size[i])
        return caption(*self.combo(i), SIZES[size - 1] if size else None, bool(self.gradient[i]))

    def said(self, i: int, rng: random.Random) -> Said:
        """Everything about clip i in three of four cases, else with some of it left out."""
        color, shape, motion, background = self.combo(i)
        size, keep = int(self.size[i]), 1.0 if rng.random() < 0.75 else 0.6
        words = (color, shape, motion, background)
        said_color, said_shape, said_motion, said_back = (w if rng.random() < keep else None for w in words)
        gradient = bool(self.gradient[i]) and said_back is not None
        said_size = SIZES[size - 1] if size else None
        return Said(said_color, said_shape, said_motion, said_back, said_size, gradient)


def sample_clips(
    n: int, generator: torch.Generator, combos: list[Combo] | None = None, size: int = SIZE, frames: int = FRAMES
) -> Clips:
    """Draw n random clips of the given combinations (the training ones unless told)."""
    table = torch.tensor(
        [(COLORS.index(c), SHAPES.index(s), MOTIONS.index(m), COLORS.index(b)) for c, s, m, b in combos or TRAIN]
    )
    color, shape, motion, background = table[torch.randint(len(table), (n,), generator=generator)].unbind(1)

    def uniform(low: Tensor, high: Tensor) -> Tensor:
        return low + (high - low) * torch.rand(n, generator=generator)

    unit, zero = size / SIZE, torch.zeros(n)
    said = torch.multinomial(torch.tensor([0.5, 0.25, 0.25]), n, replacement=True, generator=generator)
    steady = uniform(*_MOVING[said].unbind(1)) * unit
    small, large = uniform(*_GROW_FROM[said].unbind(1)) * unit, uniform(*_GROW_TO[said].unbind(1)) * unit
    time = torch.linspace(0, 1, frames)[None]
    grown = small[:, None] + (large - small)[:, None] * time
    grows, shrinks = motion == GROWING, motion == SHRINKING
    radius = steady[:, None].expand(n, frames)
    radius = torch.where(grows[:, None], grown, torch.where(shrinks[:, None], grown.flip(1), radius))

    reach = radius.amax(1) + MARGIN * unit
    low, high = reach, size - reach
    travel = torch.minimum(uniform(zero + 30 * unit, zero + 44 * unit), high - low)
    path = uniform(low, high - travel)[:, None] + travel[:, None] * time
    back = (motion == MOTIONS.index("left")) | (motion == MOTIONS.index("up"))
    path = torch.where(back[:, None], path.flip(1), path)
    across, still = uniform(low, high)[:, None].expand(n, frames), uniform(low, high)[:, None].expand(n, frames)
    horizontal, upright = motion < 2, (motion >= 2) & (motion < 4)
    x = torch.where(horizontal[:, None], path, across)
    y = torch.where(upright[:, None], path, still)

    palette = torch.tensor([PALETTE[c] for c in COLORS], dtype=torch.float32)
    paint = palette[color] + torch.rand(n, 3, generator=generator) * 20 - 10
    start = palette[background] + torch.rand(n, 3, generator=generator) * 20 - 10
    gradient = torch.rand(n, generator=generator) < 0.35
    end = torch.where(gradient[:, None], shade(start), start)
    swap = (torch.rand(n, generator=generator) < 0.5)[:, None]
    start, end = torch.where(swap, end, start), torch.where(swap, start, end)
    vertical = torch.rand(n, generator=generator) < 0.5
    return Clips(color, shape, motion, background, said, gradient, x, y, radius, paint, start, end, vertical)


def distance(shape: Tensor, dx: Tensor, dy: Tensor, radius: Tensor) -> Tensor:
    """Signed distance in pixels to the outline, negative inside; `shape` holds indices into SHAPES.

    Circle of the given radius; square with half side 0.9 radius; triangle with its apex up that
    fills the square from -radius to +radius. All arguments broadcast against each other.
    """
    circle = torch.sqrt(dx * dx + dy * dy) - radius
    square = torch.maximum(dx.abs(), dy.abs()) - 0.9 * radius
    sides = (2 * dx.abs() - dy - radius) / math.sqrt(5)
    triangle = torch.maximum(sides, dy - radius)
    return torch.where(shape == 0, circle, torch.where(shape == 1, square, triangle))


def render(clips: Clips, size: int = SIZE) -> Tensor:
    """Draw clips with edges smoothed over one pixel: [N, 3, F, H, W] in [-1, 1] on the clips' device."""
    device = clips.x.device
    centre = torch.arange(size, device=device) + 0.5
    column, row = centre[None, None, None, :], centre[None, None, :, None]
    x, y, radius = (t[:, :, None, None] for t in (clips.x, clips.y, clips.radius))
    signed = distance(clips.shape[:, None, None, None], column - x, row - y, radius)
    cover = (0.5 - signed).clamp(0, 1)[:, None]  # [N, 1, F, H, W]: share of a pixel that is painted
    along = torch.where(clips.vertical[:, None, None], centre[None, :, None], centre[None, None, :]) / size
    along = along[:, None, None]  # [N, 1, 1, H, W]
    start, end, paint = (t[:, :, None, None, None] for t in (clips.start, clips.end, clips.paint))
    video = (start + (end - start) * along) * (1 - cover) + paint * cover
    return video.clamp(0, 255) / 127.5 - 1


def to_frames(video: Tensor) -> Tensor:
    """[3, F, H, W] in [-1, 1] to frames [F, H, W, 3] in [0, 1], the form that a viewer or reader wants."""
    return ((video.float() + 1) / 2).clamp(0, 1).permute(1, 2, 3, 0)
