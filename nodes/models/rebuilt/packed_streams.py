"""Several sequences of text and image in one buffer, with texts of any length and no padding.

Row work sees the buffer [texts | images], where each set of layers reads its weights once. Attention needs the tokens
of a sequence together: queries, keys and values stand in the order [image 0 | text 0 | text 1 | image 1 | image 2 | …],
in which the texts of two neighbours are one product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..row_kernels import products, rows
from ..row_kernels.products import Part
from .block_parts import NormWeights, Positions, attend, modulation
from .joint_blocks import TwoStreams


@dataclass(frozen=True)
class Place:
    """Where one sequence stands.

    Attributes:
        text: Rows of its text in the buffer of row work.
        image: Rows of its image there.
        start: Its first row in the buffer of attention.
        image_first: Whether the image stands before the text in the buffer of attention.
    """

    text: slice
    image: slice
    start: int
    image_first: bool

    @property
    def first(self) -> int:
        """Rows of the part that stands first in the buffer of attention."""
        part = self.image if self.image_first else self.text
        return int(part.stop - part.start)

    @property
    def stop(self) -> int:
        """The end of the sequence in the buffer of attention."""
        return int(self.start + self.text.stop - self.text.start + self.image.stop - self.image.start)

    @property
    def parts(self) -> tuple[slice, slice]:
        """Text and image within the sequence."""
        before, after = slice(0, self.first), slice(self.first, self.stop - self.start)
        return (after, before) if self.image_first else (before, after)


@dataclass(frozen=True)
class Layout:
    """Lengths of the texts, and the length of each image."""

    texts: tuple[int, ...]
    image: int

    @property
    def text(self) -> int:
        """Rows of all texts."""
        return sum(self.texts)

    @property
    def rows(self) -> int:
        """Rows of all sequences."""
        return self.text + len(self.texts) * self.image

    def places(self) -> list[Place]:
        found: list[Place] = []
        text, start = 0, 0
        for number, length in enumerate(self.texts):
            image = self.text + number * self.image
            place = Place(slice(text, text + length), slice(image, image + self.image), start, number % 2 == 0)
            found.append(place)
            text, start = text + length, place.stop
        return found

    def pack(self, text: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Padded texts [n, longest, D] and images [n, image, D] as one buffer [1, rows, D]."""
        known = [text[number, :length] for number, length in enumerate(self.texts)]
        return torch.cat([*known, image.flatten(0, 1)])[None]

    def padding(self, longest: int) -> list[int] | None:
        """The row of each token of the padded texts [n, longest]; None if no text is shorter."""
        if set(self.texts) == {longest}:
            return None
        found: list[int] = []
        for place in self.places():
            own = range(place.text.start, place.text.stop)
            found += [*own, *[place.text.start] * (longest - len(own))]
        return found

    def unpack(self, x: torch.Tensor, padding: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """The reverse of `pack`. Images are a view, and so are texts without padding; padding has any values.

        Args:
            x: [1, rows, D].
            padding: The rows of `padding`, on the device.
        """
        count = len(self.texts)
        texts = x[0, : self.text] if padding is None else x[0].index_select(0, padding)
        return texts.unflatten(0, (count, -1)), x[0, self.text :].unflatten(0, (count, self.image))


class PackedStreams:
    """A block with two sets of layers, text and image, for several sequences at one timestep.

    Args:
        streams: The block; its layers are those of text and image, in this order.
    """

    def __init__(self, streams: TwoStreams) -> None:
        self.streams = streams
        text, image = streams.layers
        self.turned = NormWeights([image.query_norm, text.query_norm], [image.key_norm, text.key_norm])

    def __call__(
        self, x: torch.Tensor, layout: Layout, temb: torch.Tensor, positions: Sequence[Positions]
    ) -> torch.Tensor:
        """Compute the block.

        Args:
            x: [1, rows, D] in the order of row work; it does not change.
            layout: The sequences.
            temb: Embedding of the timestep, [1, D].
            positions: Rotary tables of each sequence, in its order in the buffer of attention.

        Returns:
            A new buffer [1, rows, D].
        """
        streams, count = self.streams, layout.text
        text, image = streams.layers

        def both(*layers: tuple[Any, ...]) -> list[Part]:
            return [Part(0, count, layers[0]), Part(count, layout.rows, layers[1])]

        vectors = modulation(streams.once, streams, temb, [text.modulation, image.modulation], 6)
        shift, scale, gate, shift_2, scale_2, gate_2 = vectors
        normed = rows.norm(x, scale, shift, first=count)
        places = layout.places()
        attended = self._attended(normed, places, positions)
        y = torch.empty_like(x)
        for place, made in zip(places, attended, strict=True):
            products.into(y[0, place.image], made[0, place.parts[1]], (image.out,))
        texts = torch.cat([made[0, place.parts[0]] for place, made in zip(places, attended, strict=True)])
        products.into(y[0, :count], texts, (text.out,))
        x, normed = rows.add_norm(x, y, gate, scale_2, shift_2, first=count)
        hidden = products.through(normed, both((text.up,), (image.up,)), gelu=True)
        y = products.through(hidden, both((text.down,), (image.down,)))
        return rows.add(x, y, gate_2, first=count, in_place=True)

    def _attended(
        self, normed: torch.Tensor, places: Sequence[Place], positions: Sequence[Positions]
    ) -> list[torch.Tensor]:
        """Attention within each sequence: [1, length, D] each."""
        streams = self.streams
        text, image = streams.layers
        width = sum(len(layer.weight) for layer in image.qkv)
        qkv = normed.new_empty(1, places[-1].stop, width)
        for place in places:
            own = qkv[0, place.start : place.stop]
            products.into(own[place.parts[1]], normed[0, place.image], image.qkv)
        for pair in (places[at : at + 2] for at in range(0, len(places), 2)):
            stop = pair[-1].start + pair[-1].first if len(pair) > 1 else pair[0].stop
            products.into(
                qkv[0, pair[0].start + pair[0].first : stop],
                normed[0, pair[0].text.start : pair[-1].text.stop],
                text.qkv,
            )
        made = []
        for place, table in zip(places, positions, strict=True):
            own = qkv[:, place.start : place.stop].unflatten(2, (3, streams.heads, -1))
            norms = (self.turned if place.image_first else streams.weights).on(normed.device)
            turn = table.cos, table.sin
            rows.query_key_(own, norms.query, norms.key, *turn, eps=streams.eps, first=place.first)
            made.append(attend(streams.attention, *own.unbind(2), norms=norms))
        return made
