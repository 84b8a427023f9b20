"""`frames.grid` and `frames.concat`: pixels at their places, labels that can be read, and refused sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import node_facts
from PIL import Image
from sgd.graph.cli.main import main
from sgd.graph.compiler.compile import check
from sgd.graph.contract.errors import NodeError
from sgd.graph.contract.node import Run
from sgd.nodes import frames_layout
from sgd.nodes.support import frame_labels
from sgd.nodes.value_facts import FramesFacts
from sgd.nodes.values import Frames, Size


def clip(frames: int = 3, width: int = 8, height: int = 6, batch: int = 1) -> Frames:
    return Frames(torch.rand(batch, frames, height, width, 3))


def cell(sheet, row, column, height, width, gap):
    top, left = gap + row * (height + gap), gap + column * (width + gap)
    return sheet[0, 0, top : top + height, left : left + width]


@pytest.mark.parametrize(
    ("frames", "options", "shown"),
    [
        (9, {"every": 4}, [0, 4, 8]),
        (10, {"every": 4}, [0, 4, 8]),
        (9, {"columns": 3}, [0, 4, 8]),
        (9, {"columns": 1}, [0]),
        (3, {"columns": 7}, [0, 1, 2]),
        (81, {}, [0, 11, 23, 34, 46, 57, 69, 80]),
        (1, {}, [0]),
    ],
)
@pytest.mark.parametrize("gap", [0, 3])
def test_a_contact_sheet_shows_the_chosen_frames(frames, options, shown, gap):
    given = Frames(torch.rand(2, frames, 6, 8, 3))
    sheet = frames_layout.grid([given], gap=gap, **options).tensor
    assert sheet.shape == (1, 1, 2 * (6 + gap) + gap, len(shown) * (8 + gap) + gap, 3)
    covered = torch.zeros(sheet.shape[2:4], dtype=torch.bool)
    for row in range(2):
        for column, index in enumerate(shown):
            assert torch.equal(cell(sheet, row, column, 6, 8, gap), given.tensor[row, index])
            cell(covered[None, None], row, column, 6, 8, gap)[:] = True
    assert (sheet[0, 0][~covered] == 1).all()
    assert frames_layout.grid([Frames(given.tensor.to("meta"))], gap=gap, **options).tensor.shape == sheet.shape


def test_columns_and_every_together_are_an_error():
    with pytest.raises(NodeError, match="give one"):
        frames_layout.grid([clip()], columns=2, every=2)
    assert [p.parameter for p in node_facts.check(frames_layout.grid, columns=2, every=2)] == ["every"]
    assert not list(node_facts.check(frames_layout.grid, columns=2, every=None))


def test_a_list_of_clips_has_a_row_for_each() -> None:
    clips = [clip(2), clip(5, batch=2), clip(1)]
    sheet = frames_layout.grid(clips, gap=1).tensor
    assert sheet.shape == (1, 1, 4 * 7 + 1, 5 * 9 + 1, 3)
    rows = [row for each in clips for row in each.tensor]
    for number, row in enumerate(rows):
        for column, image in enumerate(row):
            assert torch.equal(cell(sheet, number, column, 6, 8, 1), image)
    assert (cell(sheet, 0, 2, 6, 8, 1) == 1).all()  # a shorter row ends in white


def test_columns_of_images_stand_in_a_row() -> None:
    images = [clip(1) for _ in range(5)]
    sheet = frames_layout.grid(images, columns=3, gap=2).tensor
    assert sheet.shape == (1, 1, 2 * 8 + 2, 3 * 10 + 2, 3)
    for number, each in enumerate(images):
        assert torch.equal(cell(sheet, number // 3, number % 3, 6, 8, 2), each.tensor[0, 0])


def test_a_label_stands_above_its_clip_and_is_the_text_that_pillow_draws() -> None:
    clips = [clip(2, 200, 120), clip(2, 200, 120)]
    plain = frames_layout.grid(clips, gap=4).tensor
    sheet = frames_layout.grid(clips, labels=["first", "second one"], gap=4).tensor
    above = frame_labels.strip_height(120)
    assert sheet.shape[2] == plain.shape[2] + 2 * above
    strips = [sheet[0, 0, 4 + row * (above + 124) :][:above, 4 : 4 + 404] for row in range(2)]
    for row, strip in enumerate(strips):
        assert 0.5 < strip.mean() < 1
        assert strip.min() < 0.1
        pictures = sheet[0, 0, 4 + row * (above + 124) + above :][:120]
        assert torch.equal(pictures[:, 4:204], clips[row].tensor[0, 0])
    assert not torch.equal(strips[0], strips[1])
    # Letters of `first` are at least as tall as a third of the smallest font.
    dark = (strips[0][..., 0] < 0.5).any(dim=1).nonzero().flatten()
    assert int(dark[-1] - dark[0]) + 1 >= frame_labels.SMALLEST // 2


def test_a_long_label_is_cut_and_a_line_break_is_a_space() -> None:
    long = frame_labels.drawn("a very long label " * 20, 100, 60)
    assert long.shape == (frame_labels.strip_height(60), 100, 3)
    assert (long[:, :2] == 1).all()
    assert (long[:, -2:] == 1).all()
    assert torch.equal(frame_labels.drawn("a\nb\x1b", 100, 60), frame_labels.drawn("a b", 100, 60))
    assert torch.equal(frame_labels.drawn("naïve", 100, 60), frame_labels.drawn("naive", 100, 60))


def test_characters_that_the_font_lacks_give_a_warning() -> None:
    class Warned(Run):
        def __init__(self) -> None:
            self.said: list[str] = []

        def warn(self, message: str, parameter: str | None = None) -> None:
            self.said.append(message)

    run = Warned()
    frames_layout.grid([clip()], labels=["naïve 猫"], run=run)
    assert run.said == ["the font for labels has no 猫: boxes are drawn instead"]


def test_the_number_of_labels_is_that_of_the_clips() -> None:
    with pytest.raises(NodeError, match="there is 1 label and 3 clips"):
        frames_layout.grid([clip(batch=2), clip()], labels=["one"])
    known = (FramesFacts(None, 2), FramesFacts(None, 1))
    (problem,) = node_facts.check(frames_layout.grid, frames=known, labels=("one",))
    assert (problem.code, problem.parameter) == ("bad-value", "labels")
    assert node_facts.check(frames_layout.grid, frames=(FramesFacts(),), labels=("one",)) == []


@pytest.mark.parametrize("function", [frames_layout.grid, frames_layout.concat])
def test_clips_of_different_sizes_are_refused(function) -> None:
    with pytest.raises(NodeError, match="clip 2 has 10x6 pixels, and clip 1 8x6"):
        function([clip(), clip(width=10)])
    known = (FramesFacts(), FramesFacts(Size(8, 6)), FramesFacts(Size(8, 8, 3)))
    (problem,) = node_facts.check(function, frames=known)
    assert problem.message == "clip 3 has 8x8 pixels, and clip 2 8x6"
    with pytest.raises(NodeError, match="there are no clips"):
        function([])


def test_concat_joins_in_time() -> None:
    first, second = clip(3, batch=2), clip(1, batch=2)
    joined = frames_layout.concat([first, second]).tensor
    assert torch.equal(joined[:, :3], first.tensor)
    assert torch.equal(joined[:, 3:], second.tensor)
    with pytest.raises(NodeError, match="value 1 has 2 and value 2 has 1"):
        frames_layout.concat([first, clip()])
    known = (FramesFacts(Size(8, 6, 3), 2), FramesFacts(Size(8, 6, 1), 2))
    assert node_facts.describe(frames_layout.concat, frames=known) == {"size": [8, 6, 4], "batch": 2}
    assert node_facts.describe(frames_layout.concat, frames=(FramesFacts(Size(8, 6, 3)), FramesFacts())) == {}


FILE = """sgd: 1
inputs:
  pictures: {type: "list[path]", default: [a.png, b.png]}
  names: {type: "list[str]", default: [left, right]}
nodes:
  load:
    for: {picture: $pictures}
    body:
      image: {uses: image.load, with: {path: $picture}}
    yield: {image: $image}
  one: {uses: image.load, with: {path: a.png}}
  two: {uses: image.load, with: {path: b.png}}
  sheet: {uses: frames.grid, with: {frames: $load, labels: $names, columns: 2, gap: 0}}
  clip: {uses: frames.concat, with: {frames: [$one, $two, $one]}}
  strip: {uses: frames.grid, with: {frames: $clip, gap: 0}}
  saved: {uses: image.save, with: {frames: $sheet, path: sheet.png}}
  saved_strip: {uses: image.save, with: {frames: $strip, path: strip.png}}
outputs: {sheet: $saved, strip: $saved_strip}
"""


def test_outputs_of_a_loop_and_several_edges_in_a_file(tmp_path: Path, capsys) -> None:
    colours = {"a": (255, 0, 0), "b": (0, 0, 255)}
    for name, colour in colours.items():
        Image.new("RGB", (64, 48), colour).save(tmp_path / f"{name}.png")
    file = tmp_path / "w.yaml"
    file.write_text(FILE)
    assert main(["exec", str(file), "--out", str(tmp_path / "out"), "--quiet"]) == 0
    sheet = np.asarray(Image.open(tmp_path / "out" / "sheet.png"))
    above = frame_labels.strip_height(48)
    assert sheet.shape == (48 + above, 128, 3)
    assert (sheet[above:, :64] == colours["a"]).all()
    assert (sheet[above:, 64:] == colours["b"]).all()
    strip = np.asarray(Image.open(tmp_path / "out" / "strip.png"))
    assert [tuple(strip[0, 64 * n]) for n in range(3)] == [colours["a"], colours["b"], colours["a"]]
    capsys.readouterr()
    assert main(["exec", str(file), "names=[one]", "--out", str(tmp_path / "other"), "--quiet"]) == 1
    assert "there is 1 label and 2 clips" in capsys.readouterr().err


def test_different_sizes_are_found_before_a_run(tmp_path: Path) -> None:
    file = tmp_path / "w.yaml"
    noise = "{uses: latents.noise, with: {model: $model, width: 96, height: HEIGHT, frames: 17, seed: 0}}"
    file.write_text(
        "sgd: 1\nnodes:\n  model: {uses: model.load, with: {source: sgd:models/tiny-wan}}\n"
        f"  one: {noise.replace('HEIGHT', '96')}\n  two: {noise.replace('HEIGHT', '48')}\n"
        "  first: {uses: vae.decode, with: {model: $model, latents: $one}}\n"
        "  second: {uses: vae.decode, with: {model: $model, latents: $two}}\n"
        "  both: {uses: frames.concat, with: {frames: [$first, $second]}}\noutputs: {both: $both}\n"
    )
    (problem,) = check(file).errors
    assert problem.message == "clip 2 has 96x48 pixels, and clip 1 96x96"
    assert problem.span is not None
    assert problem.span.line == 8
