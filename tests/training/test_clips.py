"""Combinations, captions and rendering of the training clips."""

import random

import torch
from clips import (
    COMBOS,
    FRAMES,
    HELD_OUT,
    MOTIONS,
    SHAPES,
    SIZE,
    TRAIN,
    Said,
    caption,
    distance,
    render,
    sample_clips,
    varied_caption,
)


def draw(n: int, seed: int = 0, combos=COMBOS):
    return sample_clips(n, torch.Generator().manual_seed(seed), combos)


def test_a_tenth_of_the_combinations_is_held_out():
    assert len(COMBOS) == 8 * 3 * 6 * 7
    assert len(HELD_OUT) == 100
    assert not set(HELD_OUT) & set(TRAIN)
    assert set(HELD_OUT) | set(TRAIN) == set(COMBOS)
    # Every word is seen in training: what is new in a held-out prompt is the combination alone.
    for place in range(4):
        assert {c[place] for c in TRAIN} == {c[place] for c in COMBOS}


def test_training_clips_never_use_held_out_combinations():
    clips = sample_clips(3000, torch.Generator().manual_seed(1))
    assert not {clips.combo(i) for i in range(3000)} & set(HELD_OUT)


def test_plain_captions():
    assert caption("red", "circle", "left", "blue", "small", True) == (
        "a small red circle moving left on a blue gradient background"
    )
    assert caption("cyan", "square", "growing", "black") == "a cyan square growing on a black background"


def test_varied_captions_keep_their_content():
    said = Said("red", "circle", "left", "blue", None, True)
    for seed in range(200):
        text = varied_caption(said, random.Random(seed))
        assert text.index("red") < text.index("circle")
        assert "left" in text
        assert "blue gradient" in text.replace("___ ", "")
    partial = Said(None, "square", None, None, None, False)
    assert all("square" in varied_caption(partial, random.Random(s)) for s in range(20))


def test_render_is_bounded_repeatable_and_of_the_stated_shape():
    video = render(draw(6))
    assert video.shape == (6, 3, FRAMES, SIZE, SIZE)
    assert video.min() >= -1
    assert video.max() <= 1
    assert torch.equal(video, render(draw(6)))
    assert not torch.equal(video, render(draw(6, seed=1)))


def test_shapes_stay_inside_the_frame():
    clips = draw(2000)
    for track in (clips.x, clips.y):
        assert (track - clips.radius).min() > 0
        assert (track + clips.radius).max() < SIZE


def test_tracks_follow_the_motion():
    clips = draw(2000)
    dx, dy = clips.x[:, -1] - clips.x[:, 0], clips.y[:, -1] - clips.y[:, 0]
    growth = clips.radius[:, -1] / clips.radius[:, 0]
    expected = {
        "left": (dx < -25) & (dy == 0) & (growth == 1),
        "right": (dx > 25) & (dy == 0) & (growth == 1),
        "up": (dy < -25) & (dx == 0) & (growth == 1),
        "down": (dy > 25) & (dx == 0) & (growth == 1),
        "growing": (dx == 0) & (dy == 0) & (growth > 1.4),
        "shrinking": (dx == 0) & (dy == 0) & (growth < 1 / 1.4),
    }
    for index, name in enumerate(MOTIONS):
        assert expected[name][clips.motion == index].all(), name


def test_small_is_smaller_than_large():
    clips = draw(2000)
    moving = clips.motion < 4
    small, large = (clips.radius[moving & (clips.size == k)] for k in (1, 2))
    assert small.min() >= 12  # three latent cells of eight pixels across
    assert small.max() < large.min()


def test_distance_is_negative_inside_only():
    point = torch.zeros(())
    for index in range(len(SHAPES)):
        shape = torch.tensor(index)
        assert distance(shape, point, point, torch.tensor(10.0)) < 0
        assert distance(shape, point + 11, point, torch.tensor(10.0)) > 0
    corner = torch.tensor(8.5)
    assert distance(torch.tensor(1), corner, -corner, torch.tensor(10.0)) < 0  # a square has corners,
    assert distance(torch.tensor(0), corner, -corner, torch.tensor(10.0)) > 0  # a circle has none,
    assert distance(torch.tensor(2), corner, -corner, torch.tensor(10.0)) > 0  # and a triangle none above
