"""The page of a comparison in a real browser."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
from helpers import browser as browsers
from PIL import Image
from sgd.graph.cli import main

pytestmark = pytest.mark.skipif(browsers.CHROMIUM is None or browsers.DRIVER is None, reason=browsers.MISSING)

FRAMES = 12
ROWS = [{"name": "step", "type": "t", "calls": 1, "seconds": 1.0}, {"name": "save", "type": "u", "seconds": 0.2}]
RECORD = {
    "sgd": "0.1.0",
    "record": 1,
    "workflow": {"name": "clip", "file": "clip.yaml", "sha256": "a" * 64},
    "inputs": {"prompt": "a boat"},
    "environment": {"device": "cpu"},
    "status": "done",
    "seconds": 2.0,
    "phases": {"import": 0.5, "run": 1.3, "save": 0.2},
    "nodes": ROWS,
    "outputs": {"clip": "clip.mp4", "picture": "picture.png"},
}


def write_run(folder: Path, level: int, **changed) -> Path:
    """A run whose clip gets brighter from frame to frame; `level` is the brightness of the first one."""
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(RECORD | changed))
    Image.new("RGB", (64, 48), (level, 90, 90)).save(folder / "picture.png")
    with av.open(str(folder / "clip.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(FRAMES):
            frame = np.full((48, 64, 3), level + 10 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return folder


@pytest.fixture(scope="module")
def page():
    with browsers.browser() as found:
        yield found


@pytest.fixture(scope="module")
def comparison(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("comparison")
    a = write_run(folder / "a", 20)
    b = write_run(folder / "b", 60, inputs={"prompt": "a very long word " * 30}, warnings=["a warning"])
    out = folder / "page.html"
    assert main.main(["report", "--compare", str(a), str(b), "--out", str(out), "--min-psnr", "50"]) == 1
    return out


def loaded(page, comparison, width=1280, dark=False):
    page.open(comparison, width, dark)
    page.wait("return [...document.querySelectorAll('video')].every(v => v.readyState >= 2)")


@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("dark", [False, True])
def test_nothing_is_requested_and_nothing_complains(page, comparison, width, dark):
    loaded(page, comparison, width, dark)
    asked = [url for url in page.requests() if not url.startswith("chrome")]  # the browser's own first page
    assert asked == [comparison.resolve().as_uri()]
    assert page.messages() == []
    assert page.run("return document.documentElement.scrollWidth") <= width


def cut(page):
    return page.run("return getComputedStyle(document.querySelector('.stage')).getPropertyValue('--cut')")


def test_the_line_moves_by_keyboard_and_pointer(page, comparison):
    loaded(page, comparison)
    assert cut(page) == "50%"
    page.run("document.querySelector('.cut input').focus()")
    page.press("ARROW_LEFT", "ARROW_LEFT")
    assert cut(page) == "48%"
    page.press("HOME")
    assert cut(page) == "0%"
    assert "100%" not in page.run("return getComputedStyle(document.querySelector('.over')).clipPath")
    from selenium.webdriver.common.action_chains import ActionChains

    stage = page.find(".stage")
    ActionChains(page.driver).move_to_element_with_offset(stage, stage.size["width"] // 4, 0).click().perform()
    assert cut(page) == "75%"


def test_the_left_is_a_and_the_right_is_b(page, comparison):
    """The colours on the screen, left and right of the line."""
    loaded(page, comparison)
    # The second slider has the pictures, whose red is 20 in A and 60 in B.
    page.run("document.querySelectorAll('.stage')[1].scrollIntoView({block: 'center'})")
    png = page.driver.find_elements("css selector", ".stage")[1].screenshot_as_png
    import io

    shown = Image.open(io.BytesIO(png)).convert("RGB")
    row = shown.height // 4
    assert shown.getpixel((shown.width // 4, row)) == (20, 90, 90)
    assert shown.getpixel((shown.width * 3 // 4, row)) == (60, 90, 90)


TIMES = "const [a, b] = document.querySelectorAll('.stage video'); return [a.currentTime, b.currentTime, a.paused]"


def test_clips_go_frame_by_frame_in_step(page, comparison):
    loaded(page, comparison)
    page.find('.slider [data-do="next"]').click()
    page.find('.slider [data-do="next"]').click()
    one, other, paused = page.run(TIMES)
    assert (one, paused) == (pytest.approx(2.5 / 8, abs=0.01), True)
    assert other == pytest.approx(one, abs=1e-6)
    assert page.find(".slider .count").text == "frame 2"
    page.run("document.querySelector('.seek input').focus()")
    page.press("END")
    assert page.find(".slider .count").text == f"frame {FRAMES - 1}"
    one, other, _ = page.run(TIMES)
    assert one == other == pytest.approx((FRAMES - 0.5) / 8, abs=0.02)
    page.find('.slider [data-do="back"]').click()
    assert page.find(".slider .count").text == f"frame {FRAMES - 2}"


def test_clips_play_in_step_and_begin_again(page, comparison):
    loaded(page, comparison)
    play = page.find('.slider [data-do="play"]')
    play.click()
    page.wait(
        "const [a, b] = document.querySelectorAll('.stage video');"
        "return a.currentTime > 0.4 && Math.abs(a.currentTime - b.currentTime) < 0.13"
    )
    assert play.text == "Pause"
    page.run("document.querySelector('.stage video').currentTime = 1.3")
    page.wait("return document.querySelector('.stage video').currentTime < 0.5")
    assert page.run("return document.querySelector('.stage video').paused") is False
    play.click()
    assert page.run(TIMES)[2] is True
    assert play.text == "Play"


def test_the_worst_frame_is_one_click_away(page, comparison):
    loaded(page, comparison)
    worst = page.find('[data-do="worst"]')
    worst.click()
    assert page.find(".slider .count").text == f"frame {worst.get_attribute('data-frame')}"


def test_views(page, comparison):
    loaded(page, comparison)
    page.find('[data-mode="beside"]').click()
    boxes = page.run("return [...document.querySelectorAll('.stage video')].map(v => v.getBoundingClientRect().left)")
    assert boxes[1] > boxes[0] + 100
    page.find('[data-mode="difference"]').click()
    assert page.run("return getComputedStyle(document.querySelector('.over')).mixBlendMode") == "difference"
    assert page.find(".cut input").get_attribute("disabled")
    page.find('[data-mode="slide"]').click()
    assert page.run("return document.querySelector('.stage').className").split()[0] == "stage"
    assert not page.find(".cut input").get_attribute("disabled")


def test_everything_is_reached_by_keyboard(page, comparison):
    loaded(page, comparison)
    seen = set()
    for _ in range(60):
        page.press("TAB")
        seen.add(
            page.run("const e = document.activeElement; return e.dataset.do || e.dataset.mode || e.type || e.tagName")
        )
    assert {"play", "back", "next", "worst", "slide", "beside", "difference", "range"} <= seen
