"""Names in the drawing and the tables of a sweep: short ones that tell settings apart, in places of their own."""

from __future__ import annotations

import random

from sgd.graph.cli.sweep.name_places import GAP, LETTER, LINE, name_places
from sgd.graph.cli.sweep.short_values import short_values

AREA = (64.0, 40.0, 880.0, 384.0)


def test_nodes_have_the_parameters_in_which_those_of_a_type_differ() -> None:
    values = [
        "{uses: cache.none}",
        '{uses: cache.tuned, table: "a, b.json", psnr: 38}',
        '{uses: cache.tuned, table: "a, b.json", psnr: 50.5}',
        "{uses: cache.fora, every: 3}",
        "{uses: cache.taylorseer, threshold: 0.1, blocks: [1, 2]}",
        "{uses: cache.taylorseer, threshold: 0.1}",
    ]
    short = ["cache.none", "cache.tuned psnr: 38", "cache.tuned psnr: 50.5", "cache.fora"]
    short += ["cache.taylorseer blocks: [1, 2]", "cache.taylorseer"]
    assert list(short_values(values).items()) == list(zip(values, short, strict=True))


def test_other_values_and_equal_names_stay() -> None:
    for values in (["0.1", "a: b", "cache.none"], ["{uses: [1]}", "{uses: a"], ["{uses: a}", "{uses: 'a'}"]):
        assert short_values(values) == {value: value for value in values}


def _box(x: float, y: float, anchor: str, name: str) -> tuple[float, float, float, float]:
    left = x if anchor == "start" else x - LETTER * len(name)
    return left, y - 4 - LINE / 2, left + LETTER * len(name), y - 4 + LINE / 2


def test_names_cover_no_name_and_no_point() -> None:
    rng = random.Random(5)
    for count in (1, 5, 14):
        points = [(rng.uniform(100, 850), rng.uniform(60, 370), None, "x" * rng.randint(4, 24)) for _ in range(count)]
        places = name_places(points, AREA)
        boxes = [_box(place.x, place.y, place.anchor, each[3]) for place, each in zip(places, points, strict=True)]
        marks = [(x - 4, y - 4, x + 4, y + 4) for x, y, _, _ in points]
        for number, box in enumerate(boxes):
            assert AREA[0] <= box[0]
            assert box[2] <= AREA[2]
            for other in (*boxes[:number], *boxes[number + 1 :], *marks):
                assert box[2] <= other[0] or other[2] <= box[0] or box[3] <= other[1] or other[3] <= box[1]


def test_a_name_stands_beside_its_point_where_there_is_room() -> None:
    (place, end) = name_places([(100.0, 200.0, 250.0, "left"), (870.0, 100.0, None, "right")], AREA)
    assert (place.x, place.y, place.anchor) == (100.0 + GAP, 204.0, "start")
    assert (end.x, end.y, end.anchor) == (870.0 - GAP, 104.0, "end")
