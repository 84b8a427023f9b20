"""The board of a run on torch's TCPStore."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

PREFIX = "sgd/"


class StoreBoard:
    """A `Board`.

    Args:
        store: A client of the store that nothing else uses: a client answers one thread at a time.
    """

    def __init__(self, store: torch.distributed.Store) -> None:
        self.store = store
        self._turn = threading.Lock()

    def post(self, name: str, text: str) -> None:
        with self._turn, _as_os_error():
            self.store.set(PREFIX + name, text)

    def first(self, name: str, text: str) -> str:
        with self._turn, _as_os_error():
            return bytes(self.store.compare_set(PREFIX + name, "", text)).decode()

    def read(self, name: str) -> str | None:
        with self._turn, _as_os_error():
            key = PREFIX + name
            return bytes(self.store.get(key)).decode() if self.store.check([key]) else None


class _as_os_error:
    """Turns errors of torch's store into `OSError`."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, RuntimeError):  # torch's DistError is one
            raise OSError(str(error)) from error
