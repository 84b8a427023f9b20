"""The recipe of a run: everything that decides its result, and nothing else. It stands in the record and in files.

A recipe has no times, folders or hosts: equal runs have equal recipes. docs/made-again.md describes its JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from ..contract.errors import UnreadableFile
from ..contract.json_reader import parse_json
from ..contract.plain_values import MAX_TEXT
from ..contract.terminal_text import printable

VERSION = 1
LONGEST = 8 << 20
"""Most characters of the JSON text of a recipe."""
MOST_FILES = 1000
"""Most workflow files in a recipe; the compiler reads no more."""
MOST_USED = 20_000
"""Most files of one role."""

KEYS = ("recipe", "files", "inputs", "set", "options", "device", "versions", "libraries")
"""Keys that are no roles of files."""

Name = Annotated[str, StringConstraints(min_length=1, max_length=4096)]
Hash = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]


class RecipeFile(BaseModel):
    """A workflow file: its name, relative to the first one, and its text. Of a bundled file, the hash of its text."""

    model_config = ConfigDict(frozen=True, strict=True)

    name: Name
    text: Annotated[str, StringConstraints(max_length=MAX_TEXT)] | None = None
    sha256: Hash | None = None


class UsedFile(BaseModel):
    """A file that the result depends on. `sha256` is null if the run ended before its bytes were hashed."""

    model_config = ConfigDict(frozen=True, strict=True)

    source: Name | None = None
    name: Name
    sha256: Hash | None = None

    def json(self) -> dict[str, Any]:  # type: ignore[override]
        """The file as an entry of a recipe."""
        return ({"source": self.source} if self.source is not None else {}) | {"name": self.name, "sha256": self.sha256}

    @property
    def label(self) -> str:
        """The file for people, with its source."""
        return f"{self.source}/{self.name}" if self.source is not None else self.name


class _Stored(BaseModel):
    """The keys of a recipe that are no roles of files."""

    model_config = ConfigDict(strict=True)

    recipe: int
    files: Annotated[list[RecipeFile], Field(min_length=1, max_length=MOST_FILES)]
    inputs: dict[str, Any] = {}
    set: dict[str, Any] = {}
    options: dict[str, str | bool] = {}
    device: str = ""
    versions: dict[str, str | None] = {}
    libraries: Annotated[list[UsedFile], Field(max_length=MOST_FILES)] = []


_USED = TypeAdapter(Annotated[list[UsedFile], Field(max_length=MOST_USED)])


@dataclass(frozen=True)
class Recipe:
    """The recipe of a run.

    Attributes:
        files: The workflow file, and the files that it uses.
        inputs: Values of inputs. A path is relative, or the name of a file.
        settings: Values of `--set` by path.
        libraries: Files of `--library` that define nodes of the workflow, and names of installed libraries that do.
        options: Values of options that decide the result, where they are not the default.
        device: `cpu`, or the name of the card.
        versions: Versions of packages.
        used: The files that the result depends on, by role.
    """

    files: tuple[RecipeFile, ...]
    inputs: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    libraries: tuple[UsedFile, ...] = ()
    options: Mapping[str, str | bool] = field(default_factory=dict)
    device: str = ""
    versions: Mapping[str, str | None] = field(default_factory=dict)
    used: Mapping[str, tuple[UsedFile, ...]] = field(default_factory=dict)

    def json(self) -> dict[str, Any]:
        """The recipe as it stands in a record."""
        return {
            "recipe": VERSION,
            "files": [each.model_dump(exclude_none=True) for each in self.files],
            "inputs": dict(sorted(self.inputs.items())),
            "set": dict(sorted(self.settings.items())),
            "options": dict(sorted(self.options.items())),
            "device": self.device,
            "versions": dict(self.versions),
            "libraries": [each.json() for each in self.libraries],
            **{role: [each.json() for each in found] for role, found in sorted(self.used.items())},
        }

    def text(self) -> str:
        """The recipe as one line of JSON in ASCII, the form that stands in files."""
        return json.dumps(self.json(), separators=(",", ":"), allow_nan=False)

    def with_used(self, used: Mapping[str, Iterable[UsedFile]]) -> Recipe:
        """The recipe with these files, each once, in order of their names."""
        ordered = {
            role: tuple(sorted(set(found), key=lambda each: (each.source or "", each.name, each.sha256 or "")))
            for role, found in used.items()
        }
        return replace(self, used=ordered)


def recipe_of(value: Any, place: str) -> Recipe:
    """The recipe in a JSON value.

    Args:
        value: The value of a parsed JSON text.
        place: The file, for messages.

    Raises:
        UnreadableFile: If it is no recipe, or one of a newer sgd.
    """
    if not isinstance(value, dict) or not isinstance(value.get("recipe"), int):
        raise UnreadableFile(f"{place} carries no recipe of sgd")
    if value["recipe"] != VERSION:
        raise UnreadableFile(
            f"{place}: its recipe is of version {value['recipe']}, and this sgd reads version {VERSION}",
            help="install the sgd that made it, or a newer one",
        )
    try:
        found = _Stored.model_validate({name: value[name] for name in KEYS if name in value})
        # A key that is not known may be of a newer sgd; only lists of files are roles.
        roles = {name: entry for name, entry in value.items() if name not in KEYS and _is_role(entry)}
        used = {role: tuple(_USED.validate_python(entry)) for role, entry in roles.items()}
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        said = printable(f"{where}: {first['msg']}" if where else first["msg"])
        raise UnreadableFile(f"{place}: its recipe is damaged: {said[:200]}") from None
    bad = next((each.name for each in found.files if (each.text is None) == (each.sha256 is None)), None)
    if bad is not None:
        raise UnreadableFile(f"{place}: its recipe is damaged: {printable(bad[:80])} needs either `text` or `sha256`")
    return Recipe(
        tuple(found.files),
        found.inputs,
        found.set,
        tuple(found.libraries),
        found.options,
        found.device,
        found.versions,
        used,
    )


def parse_recipe(text: str, place: str) -> Recipe:
    """The recipe in a JSON text; see `recipe_of`."""
    if len(text) > LONGEST:
        raise UnreadableFile(f"{place}: its recipe is longer than {LONGEST >> 20} MiB")
    return recipe_of(parse_json(text.encode("utf-8", "surrogatepass"), f"the recipe of {place}"), place)


def _is_role(entry: Any) -> bool:
    return isinstance(entry, list) and all(isinstance(each, dict) and "name" in each for each in entry)


def differences(before: Recipe, after: Recipe) -> list[str]:
    """The differences of two recipes, in words, a line for each. Empty if they are equal."""
    lines = _of_mappings("", {each.name: _content(each) for each in before.files},
                         {each.name: _content(each) for each in after.files}, values=False)  # fmt: skip
    lines += _of_mappings("input ", before.inputs, after.inputs)
    lines += _of_mappings("--set ", before.settings, after.settings)
    lines += _of_mappings("--", before.options, after.options)
    if before.device != after.device:
        lines.append(f"device: {before.device} then, {after.device} now")
    lines += _of_mappings("", before.versions, after.versions)
    lines += _of_files("library ", before.libraries, after.libraries)
    for role in sorted({*before.used, *after.used}):
        lines += _of_files("", before.used.get(role, ()), after.used.get(role, ()))
    return [printable(line) for line in lines]


def _content(file: RecipeFile) -> str:
    """The hash of a file's text."""
    import hashlib

    return file.sha256 or hashlib.sha256((file.text or "").encode("utf-8", "surrogatepass")).hexdigest()


def _of_mappings(kind: str, before: Mapping[str, Any], after: Mapping[str, Any], values: bool = True) -> list[str]:
    def shown(value: Any) -> str:
        said = value if isinstance(value, str) else json.dumps(value)
        return said if len(said) <= 60 else f"{said[:59]}…"

    lines = []
    for name in dict.fromkeys((*before, *after)):
        if name not in after or name not in before:
            lines.append(f"{kind}{name}: only {'then' if name in before else 'now'}")
        elif before[name] != after[name]:
            lines.append(
                f"{kind}{name}: {shown(before[name])} then, {shown(after[name])} now"
                if values
                else f"{kind}{name} has changed"
            )
    return lines


def _of_files(kind: str, before: Sequence[UsedFile], after: Sequence[UsedFile]) -> list[str]:
    old, new = ({(each.label, each.sha256) for each in files} for files in (before, after))
    labels = dict.fromkeys(label for label, _ in sorted(old ^ new, key=lambda pair: pair[0]))
    lines = []
    for label in labels:
        was = [hash for name, hash in old if name == label]
        now = [hash for name, hash in new if name == label]
        if was and now and (None in was or None in now):
            lines.append(f"{kind}{label}: its bytes were not hashed {'then' if None in was else 'now'}")
        else:
            lines.append(f"{kind}{label} " + ("has other bytes" if was and now else f"only {'then' if was else 'now'}"))
    return lines
