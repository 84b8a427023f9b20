"""The form in which arrays of a node library, such as tensors, are written to files and read again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class StoredArray:
    """An array as bytes.

    Attributes:
        dtype: The name of the dtype in the safetensors format, such as `BF16`.
        shape: The sizes in the order of the bytes.
        data: The numbers in the order of `shape`, without gaps.
        form: Plain facts that the library needs to make the array again.
    """

    dtype: str
    shape: tuple[int, ...]
    data: Any
    form: Mapping[str, Any]


class ArrayStorage(Protocol):
    """Turns arrays into bytes, and bytes into equal arrays with equal strides, on the device that they were on."""

    def holds(self, value: Any) -> bool:
        """Whether a value is an array of this library that can be stored. Cheap, and without device work."""

    def finite(self, value: Any) -> bool:
        """Whether every number of an array that it holds is finite. May wait for the device."""

    def moment(self) -> Any:
        """A mark after the work that was given to the device so far; None if there is no device to wait for."""

    def stored(self, value: Any, moment: Any = None) -> StoredArray:
        """The array as bytes, on the host. May wait for the device.

        Args:
            value: The array.
            moment: A result of `moment`, after the work that makes the array was given to the device. The copy does not
                wait for later work, which may itself wait for another process forever.
        """

    def restored(self, stored: StoredArray) -> Any:
        """The array again.

        Raises:
            ValueError: If the bytes do not fit the form.
        """
