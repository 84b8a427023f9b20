"""`sgd store`."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...contract.cards import memory_size
from ...contract.constants import DONE, FAILED
from ...contract.errors import NodeError
from ...contract.node_library import NodeLibrary
from ...contract.text_tables import seconds
from ..command_line import wrong
from ..fitted_tables import fitted
from ..store_option import store_folder, store_option
from ..terminal import say, show, stdout_width

if TYPE_CHECKING:
    from ...store.entries import FolderStore, Listed


def add_arguments(to: ArgumentParser, _: Sequence[NodeLibrary]) -> None:
    """Add the arguments of `sgd store`."""
    store_option(to)
    acts = to.add_mutually_exclusive_group()
    acts.add_argument("--verify", action="store_true", help="read every entry, and remove those that are damaged")
    acts.add_argument("--prune", metavar="SIZE", help="remove the least recently used until SIZE is left, such as 5GiB")
    acts.add_argument("--clear", action="store_true", help="remove all entries")


def command(arguments: Namespace) -> int:
    """`sgd store`. Exits with 1 if an entry was damaged or cannot be removed."""
    from ...store.entries import FolderStore

    try:
        folder = store_folder(arguments.store)
        if folder is None:
            return wrong("the store is off", "name a folder with --store")
        if arguments.store is not None and not folder.is_dir():
            return wrong(f"there is no folder {folder}", "`sgd exec --store DIR` makes one")
        largest = memory_size(arguments.prune, "--prune") if arguments.prune is not None else 0
        store = FolderStore(folder)
        if arguments.verify:
            return _verify(store)
        if arguments.clear or arguments.prune is not None:
            return _remove(store, largest)
        return _list(store)
    except NodeError as error:
        return wrong(str(error), error.help)
    except OSError as error:
        say(f"error: {folder}: {error.strerror or error}")
        return FAILED


def _list(store: FolderStore) -> int:
    from ..history.run_list import size_text

    entries = store.listed(contents=True)
    lines = [["workflow", "node", "type", "size", "seconds", "used"]]
    known: list[tuple[str, float, Listed]] = [(_text(e.content, "workflow"), -e.used, e) for e in entries]
    for workflow, _, entry in sorted(known, key=lambda each: each[:2]):
        took = entry.content.get("seconds") if entry.content is not None else None
        spent = seconds(took) if isinstance(took, int | float) else "-"
        names = [_text(entry.content, "node"), _text(entry.content, "type")]
        lines.append([workflow, *names, size_text(entry.size), spent, f"{age(time.time() - entry.used)} ago"])
    if entries:
        for line in fitted(lines, stdout_width(), flexible="node", drop=("type", "used", "seconds"), right=[3, 4]):
            show(line)
        show("")
    show(f"{store.folder}: {_count(len(entries))}, {size_text(sum(e.size for e in entries))}")
    return DONE


def _verify(store: FolderStore) -> int:
    from ...store.entries import damage

    entries = store.listed()
    damaged = [(entry, why) for entry in entries if (why := damage(entry.path)) is not None]
    for entry, why in damaged:
        say(f"removed: {why}")
        store.drop(entry.key)
    show(f"{_count(len(entries) - len(damaged))} whole, {len(damaged)} damaged")
    return FAILED if damaged else DONE


def _remove(store: FolderStore, largest: int) -> int:
    from ..history.run_list import size_text

    removed, left = store.prune(largest), store.listed()
    if sum(entry.size for entry in left) > largest:
        say("error: another process is removing entries from this store; try again")
        return FAILED
    size = size_text(sum(entry.size for entry in removed))
    show(f"removed {_count(len(removed))}, {size}; {_count(len(left))} left")
    return DONE


def _count(number: int) -> str:
    return f"{number} {'entry' if number == 1 else 'entries'}"


def _text(content: Mapping[str, Any] | None, name: str) -> str:
    """A name in an entry, which may be damaged."""
    value = content.get(name) if content is not None else None
    return value if isinstance(value, str) and value.isprintable() else "-"


def age(passed: float) -> str:
    """A span of time in its largest unit: `3 h`."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if passed >= length:
            return f"{int(passed // length)} {unit}"
    return f"{max(int(passed), 0)} s"
