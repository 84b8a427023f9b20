"""The base class of node libraries: its defaults, and each hook called by the real command line for a small library."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from sgd.graph.cli import main
from sgd.graph.contract.device import choose
from sgd.graph.contract.errors import LibraryError
from sgd.graph.contract.library_command import RunOption
from sgd.graph.contract.node import Run
from sgd.graph.contract.node_library import NodeLibrary
from sgd.graph.language.library_objects import library_object, standard_object

NODES = '''
from sgd.graph.contract.node import OutPath, Run, node


@node("shop.weigh")
def weigh(text: str, run: Run) -> float:
    """Weigh a text.

    Args:
        text: The text.
    """
    if text == "heavy" and not run.planning:
        raise RuntimeError("no space on the scale")
    if text == "broken":
        raise RuntimeError("the scale is broken")
    run.event("weight", options=dict(run.options))
    return float(len(text))


@node("shop.ship", effect=True)
def ship(weight: float, run: Run, path: OutPath = "label.txt") -> None:
    """Write a label.

    Args:
        weight: Weight of the parcel.
        path: The label.
    """
    run.output(path).write_text(str(weight))
'''
LIBRARY = """
from contextlib import contextmanager

from sgd.graph.contract.diagnostics import Diagnostic
from sgd.graph.contract.library_command import LibraryCommand, RunOption
from sgd.graph.contract.errors import NodeError
from sgd.graph.contract.node_library import NodeLibrary

LOG = []


class Scale:
    def take(self):
        return {"flops": 7, "peak_bytes": 1 << 60, "live_bytes": 0}


class Shop(NodeLibrary):
    node_modules = ("counter",)
    packages = ("networkx", "no-such-package")
    recorded_events = ("weight", "parcel", "node")
    commands = (
        LibraryCommand("weigh", "weigh the texts of a workflow", "sgd_shop.weigh_command"),
        LibraryCommand("check", "never reached", "sgd_shop.nowhere"),
    )
    options = (
        RunOption("express", "ship at once"),
        RunOption("wrap-in", "the paper", choices=("brown", "red")),
        RunOption("json", "the command line has this one itself"),
        RunOption("file", "the command line has an argument of this name"),
    )
    starter_sources = "a parcel"
    out_of_memory_help = "take a smaller parcel"

    @contextmanager
    def around_run(self, run):
        LOG.append(f"enter {run.planning}")
        yield
        LOG.append("leave")

    @contextmanager
    def plan_meter(self, run):
        yield Scale()

    def table_section(self, record):
        return f"weighed {len(record['weights'])} times"

    def memory_advice(self, estimate):
        return [f"{len(estimate['nodes'])} nodes are too many"]

    def is_out_of_memory(self, error):
        return str(error).startswith("no space")

    def machine_facts(self):
        return {"Shop": {"scale": "works"}}

    def foreign_file(self, path):
        if path.read_bytes().startswith(b"PARCEL"):
            return Diagnostic("foreign-file", f"{path.name} is a parcel", help="open it")
        return None

    def starter(self, source):
        if source == "a stone":
            raise NodeError("nobody ships stones")
        return ("parcel", "sgd: 1\\n") if source == "a parcel" else None


shop = Shop()
"""
COMMAND = """
from sgd.graph.contract.events import Observer
from sgd.graph.contract.errors import NodeError


class Heard(Observer):
    def __init__(self):
        self.weights = []

    def event(self, call, kind, data):
        if data["options"].get("deaf"):
            raise KeyError("deaf")
        self.weights.append(data["options"])


def add_arguments(parser):
    parser.add_argument("--text", action="append", default=[])
    parser.add_argument("--deaf", action="store_true")
    parser.add_argument("--out")


def command(arguments, workflow):
    print("types", {name: str(type) for name, type in (workflow.input_types() or {}).items()})
    print("given", sorted(workflow.given))
    heard = Heard()
    for text in arguments.text:
        part = workflow.part({"shop.weigh"}, {"text": text})
        if part is None:
            raise NodeError("nothing to weigh", help="add a shop.weigh")
        target = workflow.output_file(arguments.out, f"{part.file_name}.json", False)
        part.run(heard, {"deaf": arguments.deaf}, unfinished="nothing was weighed")
        print(part.name, part.device, part.inputs["text"], len(part.sha256))
    workflow.save({"weights": heard.weights}, target)
    workflow.say("all weighed")
    return 0
"""
FILE = """sgd: 1
name: a/shop
inputs:
  text: {type: str, default: a parcel}
  size: {type: int, default: 3}
nodes:
  weigh: {uses: shop.weigh, with: {text: $text}}
  ship: {uses: shop.ship, with: {weight: $weigh, path: "${size}.txt"}}
outputs: {w: $weigh}
"""


@pytest.fixture
def sgd(capsys, tmp_path, monkeypatch):
    """Run a command in this process, in a folder with `shop.yaml`, with the library of a shop installed."""
    site, here = tmp_path / "site", tmp_path / "here"
    package, info = site / "sgd_shop", site / "sgd_shop-1.0.dist-info"
    for folder in (package, info, here):
        folder.mkdir(parents=True)
    (package / "__init__.py").write_text(LIBRARY)
    (package / "counter.py").write_text(NODES)
    (package / "weigh_command.py").write_text(COMMAND)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sgd-shop\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[sgd.nodes]\nshop = sgd_shop\n")
    (here / "shop.yaml").write_text(FILE)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.chdir(here)
    before = signal.getsignal(signal.SIGTERM)

    def run(*words):
        capsys.readouterr()
        code: str | int | None
        try:
            code = main.main(list(words))
        except SystemExit as exit:
            code = exit.code
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    yield run
    signal.signal(signal.SIGTERM, before)
    for name in [name for name in sys.modules if name.partition(".")[0] == "sgd_shop"]:
        del sys.modules[name]


def test_the_defaults_do_nothing() -> None:
    library = NodeLibrary()
    with library.around_run(Run()) as entered:
        assert entered is None
    assert library.plan_meter(Run()) is None
    assert library.table_section({}) == ""
    assert library.computed_share({}) is None
    assert library.memory_advice({}) == []
    assert library.is_out_of_memory(RuntimeError()) is False
    assert library.machine_facts() == {}
    assert library.starter("anything") is None
    assert library.foreign_file(Path("anything")) is None
    assert not any((library.node_modules, library.packages, library.recorded_events, library.commands))
    assert not any((library.options, library.uses_gpu, library.starter_sources, library.out_of_memory_help))


def test_a_module_has_one_library_object_or_none() -> None:
    module = ModuleType("plain")
    assert type(library_object(module)) is NodeLibrary
    module.first = module.again = NodeLibrary()  # type: ignore[attr-defined]
    assert library_object(module) is module.first
    module.second = NodeLibrary()  # type: ignore[attr-defined]
    with pytest.raises(LibraryError, match="plain has 2 library objects"):
        library_object(module)


def test_a_file_with_functions_alone_is_a_library(sgd):
    Path("nodes.py").write_text(NODES.replace("shop.", "kiosk."))
    Path("kiosk.yaml").write_text(FILE.replace("shop.", "kiosk."))
    code, out, _ = sgd("exec", "kiosk.yaml", "--library", "nodes.py", "--out", "run")
    assert code == 0
    assert Path("run/3.txt").read_text() == "8.0"
    assert "weighed" not in out


def test_a_file_with_two_library_objects_is_refused(sgd):
    Path("two.py").write_text(f"{LIBRARY}\nother = Shop()\n")
    code, out, err = sgd("check", "shop.yaml", "--library", "two.py")
    assert (code, out) == (2, "")
    assert "2 library objects" in err


def test_a_run_enters_the_context_and_prints_the_section(sgd):
    code, out, _ = sgd("exec", "shop.yaml", "--out", "run")
    assert code == 0
    assert "\n\nweighed 1 times\n\n" in out
    assert sys.modules["sgd_shop"].LOG == ["enter False", "leave"]


def test_the_record_lists_events_and_versions(sgd):
    code, out, _ = sgd("exec", "shop.yaml", "--out", "run", "--json")
    record = json.loads(out)
    assert code == 0
    assert (len(record["weights"]), record["parcels"], record["gates"], record["node_events"]) == (1, [], [], [])
    assert [row["name"] for row in record["nodes"] if row["type"]] == ["weigh", "ship"]
    assert {"networkx", "torch"} <= {name for name, version in record["environment"].items() if version}
    assert record["environment"]["no-such-package"] is None


def test_options_reach_the_nodes(sgd):
    def told(*words):
        code, out, _ = sgd("exec", "shop.yaml", "--out", "run", "--overwrite", "--json", *words)
        assert code == 0
        return json.loads(out)["weights"][0]["options"]

    given = {"weights": "real", "trust_remote_code": False, "express": False, "wrap_in": "brown"}
    given |= {"no_check_finite": False, "gates": False, "json": False, "file": False, "device": "cpu"}
    assert told() == given
    assert told("--express", "--wrap-in", "red") == {**given, "express": True, "wrap_in": "red"}
    assert sgd("plan", "shop.yaml", "--express")[0] == 0
    assert "invalid choice: 'blue'" in sgd("plan", "shop.yaml", "--wrap-in", "blue")[2]
    assert "unrecognized arguments: --express" in sgd("graph", "shop.yaml", "--express")[2]
    assert "--wrap-in {brown,red}" in sgd("exec", "--help")[1]


def test_a_plan_is_metered_and_advice_follows(sgd):
    code, out, _ = sgd("plan", "shop.yaml", "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["flops"], found["peak_bytes"], found["fits"]) == (14, 1 << 60, False)
    assert found["help"] == ["2 nodes are too many"]
    assert "\nhelp: 2 nodes are too many\n" in sgd("plan", "shop.yaml")[1]
    # Each plan is made again, for edits that make it fit.
    assert sys.modules["sgd_shop"].LOG == ["enter True", "leave"] * 4


def test_exhausted_memory_is_known_by_the_library(sgd):
    code, out, err = sgd("exec", "shop.yaml", "text=heavy", "--out", "run")
    assert (code, out) == (4, "")
    assert "\n = help: take a smaller parcel\n = help: 2 nodes are too many\n" in err
    code, _, err = sgd("exec", "shop.yaml", "text=broken", "--out", "run", "--overwrite")
    assert code == 1
    assert "smaller parcel" not in err


def test_a_gpu_is_chosen_for_libraries_that_use_it(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose("auto", [NodeLibrary()]) == "cpu"
    assert choose("auto", [NodeLibrary(), standard_object()]) == "cuda"
    assert choose("cuda", [NodeLibrary()]) == "cuda"
    assert choose("cpu", [standard_object()]) == "cpu"


def test_doctor_adds_the_facts_of_libraries(sgd):
    found = json.loads(sgd("doctor", "--json")[1])
    assert next(iter(found)) == "Machine"
    assert found["Shop"] == {"scale": "works"}
    assert "Attention" in found


def test_init_asks_each_library(sgd, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert sgd("init", "a parcel", "--out", "-") == (0, "sgd: 1\n", "")
    code, _, err = sgd("init", "a stone", "--out", "-")
    assert code == 2
    assert "stone" in err
    assert "nobody ships stones" not in err  # the standard library was asked first
    assert "or a parcel" in " ".join(sgd("init", "--help")[1].split())


def test_a_command_runs_its_part_of_the_workflow(sgd):
    code, out, err = sgd("weigh", "shop.yaml", "--text", "a", "--text", "bcd", "--device", "cpu")
    assert (code, out) == (
        0,
        "types {'text': 'str', 'size': 'int'}\ngiven []\na/shop cpu a 64\na/shop cpu bcd 64\n",
    )
    assert err.endswith("all weighed\n")
    options = {"deaf": False, "device": "cpu"}
    assert json.loads(Path("a-shop.json").read_text()) == {"weights": [options, options]}
    assert {path.name for path in Path().iterdir()} == {"shop.yaml", "a-shop.json"}  # the run's files are gone


def test_a_command_takes_values_and_settings(sgd):
    assert "given ['size', 'text']" in sgd("weigh", "shop.yaml", "size=2", "--text", "a", "text=b")[1]
    code, _, err = sgd("weigh", "shop.yaml", "--set", "weigh.text=x", "--text", "a")
    assert (code, "wired-parameter" in err) == (2, True)
    assert sgd("weigh", "shop.yaml", "--text", "a", "--library", "none.py")[0] == 2


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--text", "broken"], 1, "the scale is broken"),
        (["--text", "heavy"], 4, "no space on the scale"),
        (["--text", "a", "--deaf"], 1, "nothing was weighed"),
        (["--text", "a", "--out", ""], 2, "--out is empty"),
        (["--text", "a", "--out", "shop.yaml"], 2, "shop.yaml exists"),
        (["size=x", "--text", "a"], 2, "bad-value"),
        (["size", "--text", "a"], 2, "write name=value"),
        (["--weights", "dummy"], 2, "unrecognized arguments"),
    ],
)
def test_a_command_that_ends_early_says_why(sgd, words, code, says):
    found = sgd("weigh", "shop.yaml", *words)
    assert found[0] == code
    assert says in found[2]
    assert {path.name for path in Path().iterdir()} == {"shop.yaml"}


def test_a_workflow_without_the_node_types_has_no_part(sgd):
    ship = "  ship: {uses: shop.ship, with: {weight: 1.0}}\n"
    Path("empty.yaml").write_text(f"sgd: 1\ninputs: {{text: {{type: str, default: x}}}}\nnodes:\n{ship}")
    code, _, err = sgd("weigh", "empty.yaml", "--text", "a")
    assert code == 2
    assert err.endswith("error: nothing to weigh\n = help: add a shop.weigh\n")


def test_help_lists_commands_and_a_name_is_taken_once(sgd):
    code, out, _ = sgd("--help")
    assert code == 0
    assert "weigh the texts of a workflow" in out
    assert "never reached" not in out
    assert "sgd_shop.weigh_command" not in sys.modules
    assert "--text" in sgd("weigh", "--help")[1]


def test_a_command_whose_module_is_broken_is_an_error(sgd):
    Path("../site/sgd_shop/weigh_command.py").write_text("import nothing_of_that_name\n")
    code, _, err = sgd("weigh", "shop.yaml")
    assert code == 2
    assert "the command weigh cannot be loaded: ModuleNotFoundError" in err


def test_a_package_that_is_broken_does_not_stop_the_others(sgd):
    Path("../site/sgd_shop/__init__.py").write_text("raise SystemExit(7)\n")
    assert sgd("--help")[0] == 0
    assert "invalid choice: 'weigh'" in sgd("weigh", "shop.yaml")[2]


def test_an_option_is_a_switch_or_a_choice() -> None:
    switch, choice = RunOption("at-once", "now"), RunOption("paper", "its kind", choices=("brown", "red"))
    assert (switch.key, switch.default) == ("at_once", False)
    assert (choice.key, choice.default) == ("paper", "brown")


# The modules that a command imports, in processes of their own

HEAVY = "('torch', 'diffusers', 'transformers', 'pydantic')"
CALIBRATE = "sgd.nodes.cache.calibration.calibrate"


def imported(*words: str) -> set[str]:
    """The modules that are loaded after a command."""
    code = (
        "import sys\n"
        "from sgd.graph.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as exit:\n    assert not exit.code\n"
        "print(*sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


def test_help_imports_neither_torch_nor_node_types() -> None:
    found = imported("--help")
    assert not {"torch", "diffusers", "transformers", "pydantic", "sgd.nodes.vae", CALIBRATE} & found


@pytest.mark.parametrize("words", [["check", "quickstart"], ["graph", "quickstart"], ["exec", "--help"]])
def test_other_commands_do_not_load_the_module_of_calibrate(words: list[str]) -> None:
    assert not {"torch", "diffusers", CALIBRATE, "sgd.graph.cli.partial_run"} & imported(*words)


def test_calibrate_loads_its_module_and_no_torch_for_help() -> None:
    found = imported("calibrate", "--help")
    assert CALIBRATE in found
    assert "torch" not in found


@pytest.mark.parametrize("command", ["check", "exec", "plan", "graph"])
@pytest.mark.parametrize("content", [b"PARCEL\x00\xff", b"PARCEL: 3\nnodes: {}\n", b"PARCEL" * 1_000_000])
def test_a_library_names_a_file_of_another_program(sgd, command: str, content: bytes) -> None:
    Path("gift").write_bytes(content)
    code, out, err = sgd(command, "gift")
    assert (code, out) == (2, "")
    assert err.startswith("error[foreign-file]: gift is a parcel\n --> gift:1:1\n  = help: open it\n")
    assert err.count("error[") == 1


def test_a_library_is_not_asked_about_a_workflow(sgd) -> None:
    Path("gift.yaml").write_text("PARCEL: 3\nsgd: 1\nnodes: {}\n")
    _, _, err = sgd("check", "gift.yaml")
    assert "foreign-file" not in err
    assert "error[unknown-key]" in err
