"""stub"""

from typing import Any


def published(family: str, configs: Any, source: Any) -> Any:
    return None


def interpolated(r: Any, steps: int) -> Any:
    return tuple(r)
