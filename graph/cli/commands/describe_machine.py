"""`sgd doctor`."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ...contract.constants import DONE
from ...language.registry import installed

if TYPE_CHECKING:
    pass
from ..command_line import hook


def command(arguments: Namespace) -> int:
    """`sgd doctor`."""
    from ...contract.text_tables import columns

    found: dict[str, Mapping[str, str]] = {}
    for doctor in hook(installed(), "doctor"):
        found.update(doctor())
    if arguments.json:
        print(json.dumps(found, indent=1))
        return DONE
    for section, facts in found.items():
        print(section)
        print("\n".join(f"  {line}" for line in columns([[k, v] for k, v in facts.items()])))
    return DONE
