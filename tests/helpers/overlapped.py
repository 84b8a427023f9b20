"""Graphs and workflows whose turns have an end that can run beside the next turn (`--overlap`)."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

from sgd.graph.compiler.ir import Format, Graph, Index, Item, Ref, Var

from .machines import arg, call, graph, loop

COUNT = 3


def head(loop_id: str) -> list[Any]:
    """The calls of a turn up to its last carrying loop."""
    inner = graph(
        call(f"{loop_id}.d.heavy", "m.paint", machine="$box:machine", a=Var(f"{loop_id}.d", "s")),
        s=f"${loop_id}.d.heavy",
    )
    return [
        call(f"{loop_id}.start", "m.scale", a=Var(loop_id, "c"), by=3),
        loop(f"{loop_id}.d", {"i": [0, 1]}, inner, s=f"${loop_id}.start"),
    ]


def in_the_body() -> Graph:
    """One loop: paint, then decode and save."""
    path = Format(("out-", Index("l"), ".txt"), safe=True)
    body = graph(
        *head("l"),
        call("l.tail", "m.decode", machine="$box:machine", a="$l.d:s"),
        call("l.save", "m.save", a="$l.tail", path=path),
        file="$l.save:value",
        tail="$l.tail",
        painted="$l.d:s",
    )
    return graph(
        call("box", "m.machine"),
        call("cs", "m.cells", count=COUNT),
        loop("l", {"c": "$cs"}, body),
        call("all", "m.join", cells="$l:tail"),
        files="$l:file",
        all="$all",
        painted="$l:painted",
    )


def in_the_next_loop() -> Graph:
    """Two loops: one paints, the next decodes and saves."""
    path = Format(("out-", Index("k"), ".txt"), safe=True)
    second = graph(
        call("k.tail", "m.decode", machine="$box:machine", a=Var("k", "x")),
        call("k.save", "m.save", a="$k.tail", path=path),
        file="$k.save:value",
        tail="$k.tail",
    )
    return graph(
        call("box", "m.machine"),
        call("cs", "m.cells", count=COUNT),
        loop("l", {"c": "$cs"}, graph(*head("l"), o="$l.d:s")),
        loop("k", {"x": "$l:o"}, second),
        call("all", "m.join", cells="$k:tail"),
        files="$k:file",
        all="$all",
    )


def two_pairs() -> Graph:
    """Two pairs of loops; the second one of each decodes and saves."""
    first = in_the_next_loop()
    again = graph(
        call("z.tail", "m.decode", machine="$box:machine", a=Var("z", "x")),
        call("z.save", "m.save", a="$z.tail", path=Format(("z-", Index("z"), ".txt"), safe=True)),
        tail="$z.tail",
    )
    more: list[Item] = [
        loop("y", {"c": "$cs"}, graph(*head("y"), o="$y.d:s")),
        loop("z", {"x": "$y:o"}, again),
        call("sum", "m.join", cells="$z:tail"),
    ]
    items = {**first.items, **{each.id: each for each in more}}
    return replace(first, items=items, outputs={**first.outputs, "sum": arg("$sum")})


SHAPES = {"body": in_the_body, "next": in_the_next_loop}


def changed(given: Graph, loop_id: str, *items: Any, **outputs: Any) -> Graph:
    """A graph with more items in one loop."""
    outer = given.items[loop_id]
    body = replace(outer.body, items={**outer.body.items, **{each.id: each for each in items}})
    body = replace(body, outputs={**body.outputs, **{name: arg(value) for name, value in outputs.items()}})
    added = {name: arg(Ref(loop_id, name)) for name in outputs}
    inside = {**given.items, loop_id: replace(outer, body=body)}
    return replace(given, items=inside, outputs={**given.outputs, **added})


def failing(shape: str, at: int, where: str) -> Graph:
    """A graph whose head or tail fails for one value."""
    given = SHAPES[shape]()
    loop_id, call_id = ("l", "l.start") if where == "head" else ("l", "l.tail") if shape == "body" else ("k", "k.tail")
    outer = given.items[loop_id]
    old = outer.body.items[call_id]
    made = call(call_id, "m.fail", a=old.args["a"], at=at)
    return changed(given, loop_id, made)


STORED = """
sgd: 1
name: many
inputs: {texts: {type: "list[str]", default: [a, bb, ccc]}}
nodes:
  make:
    for: {text: $texts}
    body:
      one: {uses: slow.number, with: {text: $text}}
      more:
        for: {i: [0, 1]}
        carry: {n: $one}
        body: {again: {uses: slow.double, with: {a: $n}}}
        yield: {n: $again}
    yield: {n: $more}
  save:
    for: {n: $make}
    body:
      two: {uses: slow.double, with: {a: $n}}
      file: {uses: slow.save, with: {a: $two, path: "n-${index}.txt"}}
    yield: {two: $two}
"""

TWO_LOOPS = """
sgd: 1
name: clips
inputs:
  prompts: {type: "list[str]", default: [a red circle, a green square]}
nodes:
  model: {uses: model.load, with: {source: "sgd:models/tiny-wan"}}
  schedule: {uses: schedule.make, with: {model: $model, steps: 4}}
  gate: {uses: cache.fora, with: {every: 2}}
  encode:
    for: {prompt: $prompts}
    body: {text: {uses: text.encode, with: {model: $model, prompt: $prompt, max_length: 16}}}
    yield: {text: $text}
  generate:
    for: {text: $encode}
    body:
      noise: {uses: latents.noise, with: {model: $model, width: 32, height: 32, frames: 5, seed: 3}}
      denoise:
        uses: "sgd:parts/cfg_denoise.yaml"
        with: {model: $model, text: $text, latents: $noise, schedule: $schedule, scale: 4.0, gate: $gate}
    yield: {latents: $denoise}
  save:
    for: {latents: $generate}
    body:
      frames: {uses: vae.decode, with: {model: $model, latents: $latents}}
      video: {uses: video.save, with: {frames: $frames, fps: 8, path: "clip-${index}.mp4"}}
    yield: {video: $video}
outputs: {videos: $save}
"""
BETWEEN = """    yield: {latents: $denoise}
  save:
    for: {latents: $generate}
    body:
"""
NAMES = {BETWEEN: "", "latents: $latents": "latents: $denoise", "videos: $save": "videos: $generate"}
ONE_LOOP = functools.reduce(lambda text, name: text.replace(name, NAMES[name]), NAMES, TWO_LOOPS)
