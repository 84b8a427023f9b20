"""The answers of `torch.fx.experimental.symbolic_shapes` for plain numbers, while that module is not executed.

Torch asks it about every size of an operator on the meta device, also about plain ones. It imports sympy, and only a
compiler has symbolic sizes. The module is executed and asked for those, and for anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from .deferred_imports import resolve

MODULE = "torch.fx.experimental.symbolic_shapes"


def _plain(value: Any) -> bool:
    return type(value) is int or type(value) is bool


def _known(given: tuple[Any, ...]) -> bool:
    return bool(given) and all(type(each) is bool for each in given)


def _sizes(value: Any) -> bool:
    return _plain(value) or (isinstance(value, tuple | list) and all(map(_plain, value)))


def _condition(*given: Any) -> Any:
    return given[0] if len(given) == 1 and _known(given) else NotImplemented


def _number(*given: Any) -> Any:
    return given[0] if len(given) == 1 and _plain(given[0]) else NotImplemented


def _is_nested_int(*given: Any) -> Any:
    return False if len(given) == 1 and _plain(given[0]) else NotImplemented


def _has_hint(*given: Any) -> Any:
    return True if len(given) == 1 and _plain(given[0]) else NotImplemented


def _all_of(*given: Any) -> Any:
    return all(given) if _known(given) else NotImplemented


def _any_of(*given: Any) -> Any:
    return any(given) if _known(given) else NotImplemented


def _equal(*given: Any) -> Any:
    if len(given) != 2 or not all(map(_sizes, given)) or _plain(given[0]) != _plain(given[1]):
        return NotImplemented
    first, second = given
    return first == second if _plain(first) else list(first) == list(second)


ANSWERS: Mapping[str, Callable[..., Any]] = {
    "expect_true": _condition,
    "guard_or_false": _condition,
    "guard_or_true": _condition,
    "guard_size_oblivious": _condition,
    "statically_known_true": _condition,
    "guarding_hint_or_throw": _number,
    "has_guarding_hint": _has_hint,
    "is_nested_int": _is_nested_int,
    "sym_and": _all_of,
    "sym_or": _any_of,
    "sym_eq": _equal,
}
"""Functions by the name of the one in torch; `NotImplemented` where only that one knows the answer."""


def stand_ins() -> dict[str, Callable[..., Any]]:
    """Functions to give in place of those of the module."""
    return {name: _asked(name, answer) for name, answer in ANSWERS.items()}


def _asked(name: str, answer: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(answer)
    def ask(*args: Any, **kwargs: Any) -> Any:
        found = answer(*args) if not kwargs else NotImplemented
        return resolve(MODULE, name)(*args, **kwargs) if found is NotImplemented else found

    return ask
