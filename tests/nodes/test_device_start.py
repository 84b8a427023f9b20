"""A GPU starts in a thread while packages are imported."""

import threading

import pytest
import torch
from sgd.nodes.support import device_start
from sgd.nodes.support.device_start import device_starting


@pytest.fixture
def started(monkeypatch):
    """The devices that were started, each by a thread that goes on until it is released."""
    found, release = [], threading.Event()

    def start(device):
        found.append((device, threading.current_thread().name))
        assert release.wait(20)
        found.append("done")

    monkeypatch.setattr(device_start, "_start", start)
    found.append(release)
    return found


def test_it_starts_beside_the_block_and_is_waited_for(started, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    release = started.pop()
    with device_starting("cuda"):
        release.set()
    assert started == [("cuda", "sgd device"), "done"]


def test_a_cpu_and_a_gpu_in_use_are_left_alone(started, monkeypatch):
    started.pop()
    with device_starting("cpu"):
        pass
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with device_starting("cuda"):
        pass
    assert started == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU can be started")
def test_an_error_is_left_to_the_first_node():
    with device_starting("cuda"):
        pass
    assert not any(thread.name == "sgd device" for thread in threading.enumerate())
