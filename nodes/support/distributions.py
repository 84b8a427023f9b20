"""Put off the map from packages to their distributions. Python makes it from the file lists of all distributions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from importlib import metadata


class Distributions(Mapping[str, list[str]]):
    """The result of `importlib.metadata.packages_distributions`, made when it is first asked for something."""

    def __init__(self, make: Callable[[], Mapping[str, list[str]]]) -> None:
        self._make = make

    @cached_property
    def _made(self) -> Mapping[str, list[str]]:
        return self._make()

    def __getitem__(self, name: str) -> list[str]:
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._made)

    def __len__(self) -> int:
        return len(self._made)


@contextmanager
def made_when_asked() -> Iterator[None]:
    """Give packages that are imported inside `with` a map that is made on its first use. diffusers seldom uses it."""
    own = metadata.packages_distributions
    metadata.packages_distributions = lambda: Distributions(own)
    try:
        yield
    finally:
        metadata.packages_distributions = own
