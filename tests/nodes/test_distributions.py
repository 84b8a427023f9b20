"""The map of distributions is Python's own, made when it is asked."""

from importlib import metadata

import pytest
from sgd.nodes.support.distributions import made_when_asked


def test_the_map_is_made_at_its_first_use_and_once(monkeypatch):
    calls, own = [], metadata.packages_distributions

    def counted():
        calls.append(1)
        return own()

    monkeypatch.setattr(metadata, "packages_distributions", counted)
    with made_when_asked():
        found = metadata.packages_distributions()
    assert metadata.packages_distributions is counted
    assert calls == []
    assert "torch" in found
    assert found["PIL"] == own()["PIL"]
    assert (found.get("absent"), len(found), dict(found)) == (None, len(own()), dict(own()))
    assert calls == [1]


def test_python_has_its_function_again_after_an_error():
    own = metadata.packages_distributions
    with pytest.raises(ZeroDivisionError), made_when_asked():
        1 / 0  # noqa: B018
    assert metadata.packages_distributions is own
