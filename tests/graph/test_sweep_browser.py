"""The page of a sweep in a real browser: its drawing, its filters, the keyboard, narrow and dark windows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import browser as browsers
from PIL import Image
from sgd.graph.cli.sweep.measured_runs import measured_runs
from sgd.graph.cli.sweep.settings_summary import settings_of
from sgd.graph.cli.sweep.sweep_file import Sweep
from sgd.graph.cli.sweep.sweep_page import sweep_page
from sgd.graph.cli.sweep.variations import fixed, variations
from sgd.nodes import standard_library

pytestmark = pytest.mark.skipif(browsers.CHROMIUM is None or browsers.DRIVER is None, reason=browsers.MISSING)

EVIL = '"><script>document.title="owned"</script>'


def record(seconds: float) -> dict:
    return {
        "sgd": "0.1.0",
        "record": 1,
        "workflow": {"name": "clip", "file": "clip.yaml", "sha256": "a" * 64},
        "status": "done",
        "seconds": seconds + 1,
        "nodes": [{"name": "loop", "type": "loop", "calls": 1, "seconds": seconds}],
        "steps": [{"loop": "loop", "turn": turn, "seconds": seconds / 4} for turn in range(4)],
        "outputs": {"picture": "picture.png"},
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Three caches and two prompts. The last run failed. Less time is less like the reference."""
    folder = tmp_path_factory.mktemp("sweep")
    varied = variations(["cache=0,0.1,0.2", f'prompt=[a boat, "{EVIL.replace(chr(34), chr(92) + chr(34))}"]'])
    sweep = Sweep("clip.yaml", "", str(folder), varied, fixed(["cache=0"], varied))
    for combination in sweep.combinations[:-1]:
        run = folder / combination.folder
        run.mkdir()
        cache = float(combination.values["cache"])
        (run / "run.json").write_text(json.dumps(record(4 - 10 * cache)))
        Image.new("RGB", (32, 32), (round(90 + 100 * cache), 90, 90)).save(run / "picture.png")
    found = measured_runs(sweep, folder, [standard_library], lambda *_: None, {6: f"{EVIL} broke"})
    text, notes = sweep_page(sweep, found, settings_of(sweep, found), folder)
    assert not notes
    assert len(text) < 300_000
    (folder / "sweep.html").write_text(text)
    return folder / "sweep.html"


@pytest.fixture(scope="module")
def page():
    with browsers.browser() as found:
        yield found


def shown(page) -> list[str]:
    return page.run(
        "return [...document.querySelectorAll('.card:not([hidden]) figcaption > b')].map(b => b.textContent)"
    )


def test_the_page_asks_for_nothing_and_runs_nothing_of_a_user(page, made):
    page.open(made)
    assert page.run("return document.title") == "clip · sgd sweep"
    assert page.messages() == []
    assert page.requests() == [made.resolve().as_uri()]
    assert EVIL in page.run("return document.querySelector('.filters').textContent")
    assert f"{EVIL} broke" in page.run("return document.querySelector('.card .error').textContent")


def test_points_stand_where_their_numbers_say(page, made):
    page.open(made)
    points = page.run(
        "return [...document.querySelectorAll('.point')].map(g => { const m = g.querySelector('.mark');"
        "return [g.getAttribute('aria-label'), +m.getAttribute('cx'), +m.getAttribute('cy'),"
        "g.classList.contains('best')] })"
    )
    assert len(points) == 3
    (zero, x0, y0, _), (one, x1, y1, best1), (two, x2, y2, best2) = points
    assert "reference" in zero
    assert "0.1" in one
    assert "0.2" in two
    assert x0 > x1 > x2  # less time
    assert y0 < y1 < y2  # less alike
    assert best1
    assert best2
    assert (x0 - x1) == pytest.approx(x1 - x2, abs=0.3)  # 4, 3 and 2 seconds


def test_filters_and_points_choose_runs(page, made):
    page.open(made)
    assert shown(page) == ["1", "2", "3", "4", "5", "6"]
    page.run("const s = document.querySelector('select[data-name=\"1\"]'); s.value = '0';"
             "s.dispatchEvent(new Event('change', {bubbles: true}))")  # fmt: skip
    assert shown(page) == ["1", "3", "5"]
    assert page.find(".filters .shown").text == "3 of 6"
    page.run("document.querySelectorAll('.point')[1].focus()")
    page.press("ENTER")
    assert shown(page) == ["3"]
    page.find(".filters button").click()
    page.wait("return document.querySelectorAll('.card:not([hidden])').length == 6")
    page.run("const s = document.querySelector('select[data-name=\"status\"]'); s.value = 'failed';"
             "s.dispatchEvent(new Event('change', {bubbles: true}))")  # fmt: skip
    assert shown(page) == ["6"]


@pytest.mark.parametrize("dark", [False, True])
def test_a_narrow_window_scrolls_no_sideways(page, made, dark):
    page.open(made, width=360, dark=dark)
    assert page.run("return document.documentElement.scrollWidth") <= 360
    ground, ink = page.run(
        "return [getComputedStyle(document.body).backgroundColor,"
        "getComputedStyle(document.querySelector('.scatter .axis')).fill]"
    )
    light = [sum(map(int, colour.strip("rgb()").split(",")[:3])) for colour in (ground, ink)]
    assert (light[0] < light[1]) == dark
