"""The report in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers import browser as browsers
from helpers.report_records import NODES, record, strings, write_run
from sgd.graph.cli import main

pytestmark = pytest.mark.skipif(browsers.CHROMIUM is None or browsers.DRIVER is None, reason=browsers.MISSING)

HOSTILE = """</script></style></template>"'><img src=x onerror="window.broken=1"><script>window.broken=1</script>"""
HOSTILE += "{{ 7 * 7 }}{% raw %}${window.broken=1}\u202e"


@pytest.fixture(scope="module")
def page() -> Iterator[browsers.Page]:
    with browsers.browser() as found:
        yield found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run with a clip, a picture, and all sections."""
    import av

    folder = write_run(
        tmp_path_factory.mktemp("report") / "one", outputs={"picture": ["sheet.png"], "clip": "clip.mp4"}
    )
    with av.open(str(folder / "clip.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for n in range(16):
            frame = np.full((64, 64, 3), n * 15, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return made(folder)


def made(*runs: Path) -> Path:
    out = runs[0] / "page.html"
    assert main.main(["report", *map(str, runs), "--out", str(out), "--overwrite"]) == 0
    return out


@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("dark", [False, True])
def test_nothing_is_requested_and_nothing_complains(page: browsers.Page, report: Path, width: int, dark: bool) -> None:
    page.open(report, width, dark)
    page.wait("return document.querySelectorAll('.chart canvas').length == 3")
    assert page.requests() == [report.resolve().as_uri()]
    assert page.messages() == []
    assert page.run("return document.documentElement.scrollWidth") <= width
    ground = page.run("return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (sum(ground) < 200) == dark


def test_charts_and_timeline_are_drawn(page: browsers.Page, report: Path) -> None:
    page.open(report)
    page.wait("return document.querySelectorAll('.chart canvas').length == 3")
    drawn = """
        return [...document.querySelectorAll("canvas")].every((canvas) => {
          const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
          const seen = new Set();
          for (let n = 0; n < data.length; n += 4) seen.add(data.slice(n, n + 4).join());
          return seen.size > 5;
        });"""
    assert page.wait(drawn), "each canvas shows more than its background, as soon as it is drawn"


def test_a_heading_sorts_up_down_and_back(page: browsers.Page, report: Path) -> None:
    page.open(report)
    names = "return [...document.querySelectorAll('#s1-nodes tbody tr')].map(r => r.cells[0].firstChild.data.trim())"
    first = page.run(names)
    assert first[0] == "model"
    heading = page.find("#s1-nodes th:nth-child(3) button")
    assert heading.text == "seconds"
    heading.click()
    assert page.run(names)[:4] == ["work", "loop", "predict", "(import)"]
    assert page.find("#s1-nodes th:nth-child(3)").get_attribute("aria-sort") == "descending"
    heading.click()
    assert page.run(names)[0] == "model"
    assert page.run(names)[-1] == "work" or page.run(names)[-1] == "loop"
    heading.click()
    assert page.run(names) == first


def test_the_clip_plays_and_the_picture_shows(page: browsers.Page, report: Path) -> None:
    page.open(report)
    page.wait("return document.querySelector('video').currentTime > 0.2")
    assert page.run("const v = document.querySelector('video'); return [v.videoWidth, v.error]") == [64, None]
    assert page.run("return document.querySelector('.media img').naturalWidth") == 32


def test_a_node_shows_its_facts_by_mouse_and_keyboard(page: browsers.Page, report: Path) -> None:
    page.open(report)
    shown = "return [...document.querySelectorAll('.side .facts:not([hidden]) h3')].map(e => e.textContent)"
    assert page.run(shown) == ["work.loop.predict"], "the slowest node"
    assert "61% of bfloat16 rate" in page.find(".side").text
    assert page.run("return document.querySelectorAll('.box').length") == len(NODES)
    page.find('.box[data-path="text"]').click()
    assert page.run(shown) == ["text"]
    page.run("document.querySelector('.box[data-path=\"save\"]').focus()")
    page.press("ENTER")
    assert page.run(shown) == ["save"]
    assert page.find('.box[data-path="save"]').get_attribute("aria-pressed") == "true"


CONTRASTS = """
const light = (color) => {
  const numbers = color.match(/[\\d.]+/g).slice(0, 3).map((n) => color.includes("srgb") ? +n : n / 255);
  const [r, g, b] = numbers.map((c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
};
const box = document.querySelector(".box.node[class*=heat]");
const found = [];
for (let shade = 0; shade <= 10; shade += 1) {
  box.setAttribute("class", `box node heat${shade}`);
  const ground = light(getComputedStyle(box.querySelector("rect")).fill);
  for (const text of box.querySelectorAll("text")) {
    const ink = light(getComputedStyle(text).fill);
    found.push([shade, Math.max(ink, ground) / Math.min(ink, ground)]);
  }
}
return found;
"""


@pytest.mark.parametrize("dark", [False, True])
def test_the_text_of_a_node_can_be_read_on_every_shade(page: browsers.Page, report: Path, dark: bool) -> None:
    """The contrast by the formula of WCAG 2, which asks for 4.5 where the text is small."""
    page.open(report, 1280, dark)
    page.wait("return document.querySelector('.box.node[class*=heat]')")
    found = page.run(CONTRASTS)
    assert len(found) >= 2 * 11
    assert [(shade, ratio) for shade, ratio in found if ratio < 4.5] == []


def test_the_graph_zooms_and_moves(page: browsers.Page, report: Path) -> None:
    page.open(report, 360)
    width = "return document.querySelector('.graph svg[data-width]').getBoundingClientRect().width"
    before = page.run(width)
    page.find('.graph [data-do="in"]').click()
    assert page.run(width) == pytest.approx(before * 1.25, rel=0.01)
    page.run("const c = document.querySelector('.canvas'); c.scrollTop = 0; c.focus()")
    page.press("ARROW_DOWN")
    page.wait("return document.querySelector('.canvas').scrollTop > 0")


def test_the_timeline_answers_keys(page: browsers.Page, report: Path) -> None:
    page.open(report)
    picture = "return document.querySelector('.timeline canvas').toDataURL()"
    page.run("document.querySelector('.timeline canvas').focus()")
    first = page.run(picture)
    page.press("+")
    closer = page.run(picture)
    assert closer != first
    page.press("0")
    assert page.run(picture) == first


def test_everything_can_be_reached_by_keyboard(page: browsers.Page, report: Path) -> None:
    page.open(report)
    reached = set()
    for _ in range(90):
        page.press("TAB")
        reached.add(page.run("const e = document.activeElement; return e.className.baseVal ?? (e.id || e.className)"))
    assert {"skip", "theme", "canvas", "quiet copy", "scroll"} <= reached
    assert any("node" in name for name in reached)


def test_the_button_changes_the_colours_of_page_and_charts(page: browsers.Page, report: Path) -> None:
    page.open(report)
    page.wait("return document.querySelectorAll('.chart canvas').length == 3")
    chart = "return document.querySelector('.chart canvas').toDataURL()"
    light = page.run(chart)
    page.find("#theme").click()
    assert page.run("return document.documentElement.classList.contains('dark')")
    assert page.run(chart) != light
    page.find("#theme").click()
    assert page.run(chart) == light


def test_several_runs_are_tabs(page: browsers.Page, report: Path, tmp_path: Path) -> None:
    page.open(made(write_run(tmp_path / "a"), write_run(tmp_path / "b", status="failed", error="no", outputs={})))
    shown = "return [...document.querySelectorAll('.panel')].map(p => !p.hidden)"
    assert page.run(shown) == [True, False]
    page.find("#tab1").send_keys("")
    page.run("document.getElementById('tab1').focus()")
    page.press("ARROW_RIGHT")
    assert page.run(shown) == [False, True]
    page.wait("return document.querySelectorAll('#panel2 .chart canvas').length == 3")
    assert "The run failed." in page.find("#panel2").text
    assert page.messages() == []


def test_a_hostile_record_is_text(page: browsers.Page, tmp_path: Path) -> None:
    given = strings({**record(), "error": "no"}, HOSTILE)
    given |= {"status": "failed", "record": 1, "inputs": {HOSTILE: HOSTILE}, "outputs": {HOSTILE: [HOSTILE]}}
    for row in given["nodes"]:
        row["detail"] = {HOSTILE: HOSTILE}
    for edge, (source, target) in zip(given["edges"], [(e["from"], e["to"]) for e in record()["edges"]], strict=True):
        edge |= {"from": f"{source.rpartition('.')[0]}{HOSTILE}.x", "to": f"{target.rpartition('.')[0]}{HOSTILE}.y"}
    page.open(made(write_run(tmp_path / "run", **given)))
    page.wait("return document.querySelectorAll('.chart canvas').length >= 2")
    assert page.run("return window.broken === undefined")
    assert page.run("return document.querySelectorAll('img[src=x], body script').length") == 1  # the page's own
    assert page.messages() == []
    assert len(page.requests()) == 1
    text = page.run("return document.body.textContent")
    assert text.count("onerror=") > 20
    assert "{{ 7 * 7 }}" in text
    assert "\u202e" not in text


def test_the_drawing_of_a_file(page: browsers.Page, tmp_path: Path) -> None:
    out = tmp_path / "graph.html"
    assert main.main(["graph", "quickstart", "--format", "html", "--out", str(out)]) == 0
    page.open(out)
    page.find('.box[data-path="noise"]').click()
    said = page.find(".side").text
    assert "latents.noise" in said
    assert "height" in said
    assert "quickstart.yaml:" in said
    assert page.requests() == [out.resolve().as_uri()]
    assert page.messages() == []
