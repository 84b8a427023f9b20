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
        """A mark of the work that the device has been given up to now; None if there is no device to wait for."""

    def stored(self, value: Any, moment: Any = None) -> StoredArray:
        """The array as bytes, on the host. May wait for the device.

        Args:
            value: The array.
            moment: A mark of a moment at which the work that makes the array had been given. The copy waits for no
                later work, which may never end where it waits for another process.
        """

    def restored(self, stored: StoredArray) -> Any:
        """The array again.

        Raises:
            ValueError: If the bytes do not fit the form.
        """
