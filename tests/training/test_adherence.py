"""The reader of clips: right on real ones, wrong answers for wrong clips, no answer for no shape."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from adherence import ATTRIBUTES, UNCLEAR, read
from clips import COLORS, COMBOS, MOTIONS, SHAPES, render, sample_clips, to_frames


@pytest.fixture(scope="module")
def real():
    clips = sample_clips(80, torch.Generator().manual_seed(4), COMBOS)
    return clips, [to_frames(v) for v in render(clips)]


def wanted(clips, i):
    return dict(zip(ATTRIBUTES, clips.combo(i), strict=True)) | {"gradient": bool(clips.gradient[i])}


def test_reads_real_clips(real):
    clips, frames = real
    right = [read(f).matches(**wanted(clips, i)) for i, f in enumerate(frames)]
    assert np.mean([all(r.values()) for r in right]) >= 0.99


def test_rejects_the_caption_of_another_clip(real):
    """Compared with the wishes for another clip, agreement falls to chance."""
    clips, frames = real
    n = len(frames)
    right = [read(f).matches(**wanted(clips, (i + 1) % n)) for i, f in enumerate(frames)]
    assert np.mean([r["color"] for r in right]) < 0.35
    assert np.mean([r["background"] for r in right]) < 0.35
    assert np.mean([r["motion"] for r in right]) < 0.4
    assert np.mean([r["shape"] for r in right]) < 0.55
    assert not any(all(r.values()) for r in right)


def test_played_backwards_the_motion_is_the_opposite(real):
    clips, frames = real
    opposite = dict(zip(MOTIONS, ["right", "left", "down", "up", "shrinking", "growing"], strict=True))
    for i in range(20):
        reading = read(frames[i].flip(0))
        assert reading.motion == opposite[clips.combo(i)[2]]
        assert reading.shape == clips.combo(i)[1]


def test_a_still_clip_has_no_motion(real):
    _, frames = real
    assert read(frames[0][:1].expand(17, -1, -1, -1)).motion == UNCLEAR


@pytest.mark.parametrize("shape", range(3))
def test_tells_shapes_apart_in_the_same_place(shape):
    clips = sample_clips(6, torch.Generator().manual_seed(9), COMBOS)
    changed = replace(clips, shape=torch.full_like(clips.shape, shape))
    for video in render(changed):
        assert read(to_frames(video)).shape == SHAPES[shape]


@pytest.mark.parametrize("color", range(8))
def test_names_the_painted_color(color):
    clips = sample_clips(6, torch.Generator().manual_seed(10), [c for c in COMBOS if c[0] == COLORS[color]])
    assert all(read(to_frames(v)).color == COLORS[color] for v in render(clips))


def test_no_shape_reads_as_unclear():
    plain = np.full((17, 64, 64, 3), 0.5)
    assert read(plain).shape == read(plain).motion == read(plain).color == UNCLEAR
    noise = np.random.default_rng(0).random((17, 64, 64, 3))
    assert read(noise).shape == UNCLEAR


def test_a_cross_is_none_of_the_shapes():
    frames = np.ones((17, 96, 96, 3)) * np.array([0.1, 0.2, 0.9])
    for t in range(17):
        frames[t, 20 + t : 60 + t, 36:44] = frames[t, 36 + t : 44 + t, 20:60] = [0.9, 0.1, 0.1]
    reading = read(frames)
    assert reading.shape == UNCLEAR
    assert (reading.color, reading.motion, reading.background) == ("red", "down", "blue")


def test_wants_frames():
    with pytest.raises(ValueError, match="expected frames"):
        read(np.zeros((3, 17, 64, 64)))
