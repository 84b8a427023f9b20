"""A module that is deferred is executed at its first use, once, and is then as it would be without deferring."""

import subprocess
import sys
import textwrap

import pytest


@pytest.fixture
def run(tmp_path):
    package = tmp_path / "slow"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "numbers.py").write_text("print('executed'); import slow.numbers; ONE = 1\ndef two(): return ONE + 1\n")
    inner = package / "inner"
    inner.mkdir()
    (inner / "__init__.py").write_text("print('inner'); from .part import THREE\n")
    (inner / "part.py").write_text("THREE = 3\n")
    (package / "broken.py").write_text("print('tried'); raise ValueError('broken')\n")

    def call(code):
        head = "from sgd.nodes.support.deferred_imports import defer\n"
        done = subprocess.run(
            [sys.executable, "-c", head + textwrap.dedent(code)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    return call


def test_it_is_executed_at_the_first_use_and_once(run):
    code = """
    defer("slow.numbers")
    import slow.numbers
    def again():
        import slow.numbers
    again()
    print("imported")
    print(slow.numbers.two(), slow.numbers.ONE)
    from slow.numbers import ONE
    import sys, types
    print(sys.modules["slow.numbers"] is slow.numbers, type(slow.numbers) is types.ModuleType)
    print(hasattr(slow.numbers, "three"))
    """
    assert run(code) == ["imported", "executed", "2", "1", "True", "True", "False"]


def test_a_from_import_executes_it(run):
    code = """
    defer("slow.numbers")
    from slow.numbers import two
    print(two())
    """
    assert run(code) == ["executed", "2"]


def test_a_package_has_its_submodules(run):
    code = """
    defer("slow.inner")
    import slow.inner
    print("imported")
    print(slow.inner.THREE, slow.inner.part.THREE)
    """
    assert run(code) == ["imported", "inner", "3", "3"]


def test_one_of_several_threads_executes_it(run):
    code = """
    import threading
    defer("slow.numbers")
    import slow.numbers
    start, found = threading.Barrier(8), []
    def use():
        start.wait()
        found.append(slow.numbers.two())
    threads = [threading.Thread(target=use) for _ in range(8)]
    for each in threads: each.start()
    for each in threads: each.join()
    print(sum(found))
    """
    assert run(code) == ["executed", "16"]


def test_an_error_of_the_module_comes_at_every_use(run):
    code = """
    defer("slow.broken")
    import slow.broken
    for _ in range(2):
        try:
            slow.broken.x
        except ValueError as error:
            print(error)
    """
    assert run(code) == ["tried", "broken", "tried", "broken"]


def test_an_imported_or_absent_module_is_left_alone(run):
    code = """
    import slow.numbers
    defer("slow.numbers")
    defer("slow.absent")
    try:
        import slow.absent
    except ModuleNotFoundError as error:
        print(error.name)
    """
    assert run(code) == ["executed", "slow.absent"]
