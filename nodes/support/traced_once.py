"""Trace a method once for each shape of its arguments, for plans that would call it hundreds of times."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from . import cost_meter, value_forms


@contextmanager
def traced_once(owner: Any, name: str) -> Iterator[None]:
    """Trace a method once for each shape of its arguments; further calls add the cost of the first call.

    A VAE calls the method hundreds of times, for tiles and chunks of few shapes. The method may change only lists
    among its arguments (caches of earlier frames).

    Args:
        owner: The object with the method, which is restored at the end.
        name: Name of the method.
    """
    original, own = getattr(owner, name), vars(owner).get(name)
    seen: dict[Any, tuple[Any, list[Any], int, int, int]] = {}

    def traced(*args: Any, **kwargs: Any) -> Any:
        counter = cost_meter.current()
        if counter is None:
            return original(*args, **kwargs)
        lists = [value for value in (*args, *kwargs.values()) if isinstance(value, list)]
        key = (
            tuple(map(value_forms.form, args)),
            tuple((word, value_forms.form(value)) for word, value in kwargs.items()),
        )
        if key not in seen:
            flops, sent, live, peak = counter.flops, counter.sent, counter.live, counter.peak
            counter.peak = live
            made = original(*args, **kwargs)
            seen[key] = (
                value_forms.form(made),
                [value_forms.form(changed) for changed in lists],
                counter.flops - flops,
                counter.sent - sent,
                counter.peak - live,
            )
            counter.peak = max(counter.peak, peak)
            return made
        form, after, flops, sent, above = seen[key]
        counter.flops += flops
        counter.sent += sent
        counter.peak = max(counter.peak, counter.live + above)
        for changed, entries in zip(lists, after, strict=True):
            changed[:] = value_forms.from_form(entries)
        return value_forms.from_form(form)

    setattr(owner, name, traced)
    try:
        yield
    finally:
        if own is None:
            delattr(owner, name)
        else:
            setattr(owner, name, own)
