"""`--device`: one of several GPUs, chosen before torch uses any. Here the GPUs are numbers that torch reads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from sgd.graph.cli.main import main
from sgd.graph.contract.device import VISIBLE, card_number, choose, one_card
from sgd.graph.contract.errors import NodeError
from sgd.graph.contract.node_library import NodeLibrary


class Library(NodeLibrary):
    uses_gpu = True


@pytest.fixture
def three_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with three GPUs. torch itself reads which of them the process may use."""

    def count() -> int:
        return sum(number in (0, 1, 2) for number in torch.cuda._parse_visible_devices())

    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "device_count", count)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count() > 0)
    monkeypatch.delenv(VISIBLE, raising=False)


def test_one_of_three_cards_is_the_only_one_of_the_process(three_cards: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with one_card("cuda:1"):
        assert choose("cuda:1", [Library()]) == choose("cuda:1", [Library()]) == "cuda"
        assert torch.cuda._parse_visible_devices() == [1]
    assert VISIBLE not in os.environ
    monkeypatch.setenv(VISIBLE, "2, 0")
    with one_card("cuda:1"):
        assert choose("cuda:1", [Library()]) == "cuda"
        assert torch.cuda._parse_visible_devices() == [0]
    assert os.environ[VISIBLE] == "2, 0"
    with one_card("cuda"):
        assert torch.cuda._parse_visible_devices() == [2, 0]


@pytest.mark.parametrize(
    ("visible", "name", "message", "help"),
    [
        (None, "cuda:3", "there is no such GPU; torch finds 3", "choose cuda:0 to cuda:2"),
        ("1", "cuda:1", "there is no such GPU; torch finds 1", "choose cuda:0;"),
        ("", "cuda:0", "torch finds no NVIDIA GPU", "--device cpu works everywhere"),
    ],
)
def test_a_card_that_is_not_there(
    three_cards: None, visible: str | None, name: str, message: str, help: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if visible is not None:
        monkeypatch.setenv(VISIBLE, visible)
    with one_card(name), pytest.raises(NodeError) as found:
        choose(name, [Library()])
    assert str(found.value) == f"--device {name}: {message}"
    assert help in (found.value.help or "")
    assert os.environ.get(VISIBLE) == visible


def test_names_of_devices(capsys: pytest.CaptureFixture[str]) -> None:
    assert [card_number(name) for name in ("cuda:0", "cuda:12", "cuda", "cuda:", "cuda:-1", "cuda:x")] == [
        0,
        12,
        None,
        None,
        None,
        None,
    ]
    with pytest.raises(SystemExit):
        main(["plan", "quickstart", "--device", "cuda:x"])
    assert "'cuda:x' is no device; give auto, cpu, cuda, or cuda:1" in capsys.readouterr().err


def test_a_number_of_this_machine_says_nothing_about_another_or_about_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def message(*words: str) -> str:
        assert main([*words, "--device", "cuda:1"]) == 2
        return capsys.readouterr().err

    assert "--memory and --device cuda:1 exclude each other" in message("plan", "quickstart", "--memory", "8GiB")
    assert "--card and --device cuda:1 exclude each other" in message("plan", "quickstart", "--card", "h100")
    one = "--device cuda:1 is one GPU, and each of 2 processes takes one of its own"
    assert one in message("plan", "quickstart", "--processes", "2")
    assert one in message("exec", "quickstart", "--processes", "2")
    assert list(tmp_path.iterdir()) == []
