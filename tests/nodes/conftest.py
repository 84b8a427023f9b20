"""Tiny models, built once for all tests of nodes."""

import pytest


@pytest.fixture(scope="session")
def wan_folder(tmp_path_factory):
    from helpers import tiny

    return tiny.save("wan", tmp_path_factory.mktemp("wan") / "tiny-wan")


@pytest.fixture(scope="session")
def wan_model(wan_folder):
    """The model with all its components in memory; no test may change them."""
    from helpers.direct import model_of

    return model_of(wan_folder)


@pytest.fixture
def run(tmp_path):
    from helpers.direct import DirectRun

    return DirectRun(tmp_path / "out")
