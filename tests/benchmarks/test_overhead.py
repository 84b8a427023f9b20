"""The budgets of `overhead.py`, with margins that hold on a busy machine, and what no margin is needed for."""

from __future__ import annotations

import subprocess
import sys

import pytest
from benchmarks import overhead


def test_a_call_costs_less_than_its_budget() -> None:
    found = overhead.per_call()
    # Twice the budget: processors may share a core.
    assert {n: s for n, s in found.items() if s > 2 * overhead.BUDGETS.get(n, 1)} == {}


def test_memory_sampling_is_one_percent_at_most() -> None:
    assert overhead.sampling() < 0.01


def test_cost_grows_with_the_number_of_calls_and_no_faster() -> None:
    few, many = (overhead.executed(overhead.chain(10, n), overhead.Observer(), 10) for n in (200, 800))
    assert many < 8 * few


HEAVY = ("torch", "diffusers", "transformers", "numpy", "av", "PIL")


@pytest.mark.parametrize("words", [["check", "quickstart"], ["nodes"], ["graph", "quickstart"], ["schema"]])
def test_commands_that_run_nothing_import_nothing_heavy(words: list[str]) -> None:
    text = (
        "import sys; from sgd.graph.cli.main import main; code = main(sys.argv[1:]);"
        f"print(code, [m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", text, *words], capture_output=True, text=True, check=True)
    assert done.stderr == "0 []\n"


def test_help_needs_neither_pydantic_nor_a_graph_library() -> None:
    text = (
        "import sys\nfrom sgd.graph.cli.main import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print([m for m in {('networkx', 'pydantic', 'yaml', 'rich', *HEAVY)} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"


def test_commands_answer_in_time() -> None:
    # Four times the budget: this is for a machine that does much else.
    found = overhead.commands()
    assert {n: s for n, s in found.items() if s > 4 * overhead.BUDGETS[n]} == {}
