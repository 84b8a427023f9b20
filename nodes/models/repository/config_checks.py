"""Checks the values of a configuration against the class that takes them. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ....graph.contract.ports import show
from ....graph.contract.suggestions import did_you_mean
from .config_signatures import NO_DEFAULT, ConfigOption, kind_of, options_of

LARGEST_SIZE = {"diffusers": 10**6, "transformers": 10**8}
"""Whole numbers above these would be no size of a model. The largest in use are vocabularies and context lengths."""

MOST_LAYERS = 1000
IDS = re.compile(r"_ids?$|_index$|_token$")
LAYERS = re.compile(r"(^|_)(n|num)_.*(layers|blocks)$|(^|_)(layers|blocks)_per_|(^|_)depth$")

WORDS = {
    "whole": "a whole number",
    "number": "a number",
    "text": "text",
    "flag": "true or false",
    "list": "a list",
    "mapping": "a mapping",
    "null": "null",
}


class ConfigProblem(NamedTuple):
    """A problem of a configuration: the key, a sentence about its value, and whether the class can still be built."""

    key: str
    message: str
    is_warning: bool = False
    help: str | None = None


def config_problems(config: Mapping[str, Any], library: str, name: str, tensors: int | None) -> Iterator[ConfigProblem]:
    """The problems of a configuration.

    Args:
        config: The content of the component's configuration file.
        library: `diffusers` or `transformers`.
        name: The class in model_index.json.
        tensors: Number of tensors in the component's weight files; None if it is not known.
    """
    own = config.get("_class_name")
    if library == "diffusers" and own is not None and own != name:
        yield ConfigProblem("_class_name", f"it is the configuration of {show(own)}, and model_index.json names {name}")
        return
    model_type = config.get("model_type", "")
    if not isinstance(model_type, str):
        yield ConfigProblem("model_type", f"`model_type` is {show(model_type)}, not text")
        return
    options = options_of(library, name, model_type)
    if options is None:
        return
    for key, value in config.items():
        option = options.get(key)
        if option is not None:
            problem = _problem(key, value, option, library, tensors)
            if problem is not None:
                yield ConfigProblem(key, problem)
        elif library == "diffusers" and not key.startswith("_"):
            yield ConfigProblem(key, f"{name} has no option `{key}`", True, did_you_mean(key, options))
        if library == "transformers" and key.endswith("_config") and isinstance(value, dict) and "model_type" in value:
            for inner in config_problems(value, library, "", tensors):
                yield inner._replace(key=f"{key}.{inner.key}", message=f"in `{key}`: {inner.message}")


def _problem(key: str, value: Any, option: ConfigOption, library: str, tensors: int | None) -> str | None:
    """The problem of the value of one option."""
    kind = kind_of(value)
    if option.kinds and kind not in option.kinds:
        wanted = " or ".join(word for k, word in WORDS.items() if k in option.kinds and k != "null")
        return f"`{key}` is {show(value)}, not {wanted or 'null'}"
    entries: Sequence[Any] = value if isinstance(value, list) else ()
    for entry in entries:
        if option.items and kind_of(entry) not in option.items:
            wanted = " or ".join(word for k, word in WORDS.items() if k in option.items)
            return f"`{key}` has the entry {show(entry)}, not {wanted}"
    for number in (value, *entries):
        if type(number) is not int or IDS.search(key):
            continue
        if number > LARGEST_SIZE[library]:
            return f"`{key}` is {show(value)}, larger than any model has"
        if number < 0 and _is_count(option.default):
            return f"`{key}` is {show(value)}, and cannot be negative"
        if LAYERS.search(key) and number > MOST_LAYERS:
            return f"`{key}` is {show(value)}, more than any model has"
        if LAYERS.search(key) and tensors is not None and number > tensors:
            return f"`{key}` is {show(value)}, and the weight files have {tensors} tensors"
    return None


def _is_count(default: Any) -> bool:
    """Whether a default is a number or numbers that are not negative."""
    if default is NO_DEFAULT or default is None:
        return True
    numbers = default if isinstance(default, list | tuple) else [default]
    return all(type(number) is int and number >= 0 for number in numbers)
