"""Node types that break the rules for nodes, each in one way, and one that damages numbers at a chosen step.

Import it, or give the file to `sgd --library`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

from pydantic import Field
from sgd.graph.contract.ports import Port
from sgd.graph.language.registry import Library, standard
from sgd.nodes import NodeError, State, node
from sgd.nodes.values import Conditioning, Frames, Latents, Step, Velocity


class Two(NamedTuple):
    """Two outputs."""

    left: Frames
    right: Frames


@dataclass
class Bag(Port):
    """Tensors deep inside of a value."""

    things: list[dict[str, Any]]


@node("broken.damage")
def damage(latents: Latents, step: Step, *, at: int = 0, value: float = float("inf")) -> Latents:
    """Replace the first number at one step."""
    tensor = latents.tensor.clone()
    if step.index == at:
        tensor.view(-1)[0] = value
    return Latents(tensor, latents.family, latents.size)


@node("broken.frames")
def frames(value: float = 0.5, *, narrow: bool = False) -> Frames:
    """Frames of one number."""
    import torch

    tensor = torch.full((1, 1, 16, 16, 3), value)
    return Frames(tensor.half() if narrow else tensor)


@node("broken.bag")
def bag(frames: Frames) -> Bag:
    """The frames deep inside of a value."""
    return Bag([{"it": frames}])


@node("broken.dig")
def dig(bag: Bag) -> Frames:
    """Changes a tensor deep inside of a value."""
    found: Frames = bag.things[0]["it"]
    found.tensor[0, 0, 0] += 1
    return Frames(found.tensor.clone())


@node("broken.multiply")
def multiply(frames: Frames) -> Frames:
    """Changes its input in place."""
    return Frames(frames.tensor.mul_(0.5))


@node("broken.slice")
def slice_(frames: list[Frames]) -> Frames:
    """Writes into a view of an input that is an entry of a list."""
    view = frames[-1].tensor[:, 0]
    view[..., 0] = 0
    return Frames(frames[-1].tensor.clone())


@node("broken.append")
def append(frames: list[Frames]) -> Frames:
    """Changes the list of its input."""
    frames.append(frames[0])
    return Frames(frames[0].tensor.clone())


class Kept(State):
    """A tensor that lives on."""

    def __init__(self) -> None:
        self.tensor: Any = None


@node("broken.reuse")
def reuse(frames: Frames, step: Step, state: Kept) -> Frames:
    """Returns one tensor at every step, and writes into it."""
    if state.tensor is None:
        state.tensor = frames.tensor.clone()
    state.tensor += 1
    return Frames(state.tensor)


@node("broken.brightest")
def brightest(frames: list[Frames]) -> float:
    """The largest number of all frames."""
    return max(float(each.tensor.max()) for each in frames)


@node("broken.elsewhere")
def elsewhere(frames: Frames) -> Frames:
    """Returns a tensor on another device."""
    return Frames(frames.tensor.to("meta"))


@node("broken.nothing")
def nothing(frames: Frames) -> Frames:  # type: ignore[empty-body]
    """Forgets to return."""


@node("broken.tensor")
def tensor(frames: Frames) -> Frames:
    """Returns the tensor in place of the value."""
    return frames.tensor  # type: ignore[return-value]


@node("broken.empty")
def empty(frames: Frames) -> Frames:
    """Returns a value without a tensor."""
    return Frames(None)  # type: ignore[arg-type]


@node("broken.array")
def array(frames: Frames) -> Frames:
    """Returns a value with an array of NumPy."""
    return Frames(frames.tensor.numpy())  # type: ignore[arg-type]


@node("broken.other")
def other(frames: Frames) -> Frames:
    """Returns a value of another type."""
    return Velocity(frames.tensor)  # type: ignore[return-value]


@node("broken.mapping")
def mapping(frames: Frames) -> Conditioning:
    """Returns a mapping with something other than tensors."""
    return Conditioning({"words": "none"}, None, "wan")  # type: ignore[dict-item]


@node("broken.three")
def three(frames: Frames) -> Two:
    """Returns three values for two outputs."""
    return frames, frames, frames  # type: ignore[return-value]


@node("broken.single")
def single(frames: Frames) -> Two:
    """Returns one value for two outputs."""
    return frames  # type: ignore[return-value]


@node("broken.half")
def half(frames: Frames) -> Two:
    """Returns two values, one of them wrong."""
    return frames, None  # type: ignore[return-value]


@node("broken.pair")
def pair(frames: Frames) -> tuple[Frames, Frames]:
    """Returns a list that is too short."""
    return (frames,)  # type: ignore[return-value]


@node("broken.few")
def few(frames: Frames) -> Annotated[list[Frames], Field(min_length=2)]:
    """Returns a list that is too short."""
    return [frames]


@node("broken.entry")
def entry(frames: Frames) -> list[Frames]:
    """Returns a list with None in it."""
    return [frames, None]  # type: ignore[list-item]


@node("broken.number")
def number(frames: Frames) -> int:
    """Returns text for a number."""
    return "3"  # type: ignore[return-value]


@node("broken.more", effect=True)
def more(frames: Frames) -> None:
    """Returns a value that it does not declare."""
    return frames  # type: ignore[return-value]


@node("broken.reshape")
def reshape(frames: Frames) -> Frames:
    """Fails inside of torch, two calls down."""
    return Frames(into_three(frames.tensor))


def into_three(tensor: Any) -> Any:
    return tensor.reshape(3)


@node("broken.module")
def module(frames: Frames) -> Frames:
    """Fails inside of a module of torch, while it handles another error."""
    import torch

    try:
        return {}["frames"]  # type: ignore[no-any-return]
    except KeyError:
        return Frames(torch.nn.Linear(7, 7)(frames.tensor))


@node("broken.words")
def words(frames: Frames) -> Frames:
    """Fails on purpose, in words."""
    raise NodeError("these frames are too beautiful", help="take others")


def library() -> Library:
    """The standard library and these nodes."""
    found = standard()
    found.add("broken", sys.modules[__name__])
    return found
