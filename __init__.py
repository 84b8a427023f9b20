"""sgd: image and video generation with diffusion transformers, as files.

    plan = sgd.compile("quickstart", inputs={"prompt": "a small red circle moving left on a white background"})
    run = sgd.run(plan)
    print(run.outputs, run.record["seconds"])

Names are imported when first used, and nothing is imported here, so that the command line starts at once.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sgd.graph.compiler.compile import compile
    from sgd.graph.compiler.plan import Plan
    from sgd.graph.contract.diagnostics import Diagnostic
    from sgd.graph.contract.errors import NodeError, Problems
    from sgd.graph.contract.node import node
    from sgd.graph.runtime.failure import NodeFailed
    from sgd.graph.runtime.profiling import Profiling
    from sgd.graph.runtime.run import run
    from sgd.graph.runtime.run_result import Result
    from sgd.graph.runtime.session import session

__version__ = "0.1.0"

__all__ = [
    "Diagnostic",
    "NodeError",
    "NodeFailed",
    "Plan",
    "Problems",
    "Profiling",
    "Result",
    "compile",
    "node",
    "run",
    "session",
]

_HOMES = {
    "compile": "compiler.compile",
    "NodeFailed": "runtime.failure",
    "NodeError": "contract.errors",
    "node": "contract.node",
    "Plan": "compiler.plan",
    "Profiling": "runtime.profiling",
    "Result": "runtime.run_result",
    "run": "runtime.run",
    "session": "runtime.session",
    "Diagnostic": "contract.diagnostics",
    "Problems": "contract.errors",
}


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module 'sgd' has no attribute {name!r}")
    return getattr(import_module(f"sgd.graph.{_HOMES[name]}"), name)
