"""`sgd plan`."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import TYPE_CHECKING

from ...compiler.compile import plan_of
from ...contract.constants import DONE, FAILED
from ...contract.node import NodeError

if TYPE_CHECKING:
    pass
from ..command_line import checked, options, say, wrong


def command(arguments: Namespace) -> int:
    """`sgd plan`."""
    from ...contract.device import choose, memory_bytes
    from ...runtime.estimate import estimate
    from ...runtime.execute import NodeFailed
    from ..plan_table import plan_table

    found = checked(arguments, complete=True)
    if isinstance(found, int):
        return found
    result, library = found
    plan = plan_of(result, library)
    try:
        device = choose(arguments.device, plan.libraries)
        memory = memory_bytes(device)
        estimated = estimate(plan, options=options(arguments, device), device=device, memory_bytes=memory)
    except NodeFailed as error:
        say(f"error: {error}")
        return FAILED
    except NodeError as error:
        return wrong(str(error), error.help)
    print(json.dumps(estimated, indent=1) if arguments.json else plan_table(estimated))
    if not arguments.json:
        for line in estimated["help"]:
            print(f"help: {line}")
    return DONE
