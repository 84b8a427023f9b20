"""`sgd init`: a first workflow for a model, from what its repository says it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..graph.node import NodeError, Run

TEXT_TO_VIDEO = """\
sgd: 1
name: {name}
about: "Text to video with {source}."

inputs:
  prompt: {{type: str, about: What to show.}}
  negative: {{type: str, default: "", about: What to avoid.}}
  width: {{type: int, default: {width}, min: 16}}
  height: {{type: int, default: {height}, min: 16}}
  frames: {{type: int, default: {frames}, min: 1}}
  steps: {{type: int, default: {steps}, min: 1}}
  scale: {{type: float, default: {scale}, about: Guidance scale.}}
  seed: {{type: int, default: 0}}

nodes:
  model: {{uses: model.load, with: {{source: "{source}"}}}}
  text: {{uses: text.encode, with: {{model: $model, prompt: $prompt, negative: $negative}}}}
  noise: {{uses: latents.noise, with: {{model: $model, width: $width, height: $height, frames: $frames, seed: $seed}}}}
  schedule: {{uses: schedule.make, with: {{model: $model, steps: $steps}}}}
  denoise:
    uses: sgd:parts/cfg_denoise
    with: {{model: $model, text: $text, latents: $noise, schedule: $schedule, scale: $scale}}
  decoded: {{uses: vae.decode, with: {{model: $model, latents: $denoise}}}}
  video: {{uses: video.save, with: {{frames: $decoded, fps: {fps}, path: "${{name}}-${{seed}}.mp4"}}}}

outputs: {{video: $video}}
"""

TEXT_TO_IMAGE = """\
sgd: 1
name: {name}
about: "Text to image with {source}."

inputs:
  prompt: {{type: str, about: What to show.}}
  negative: {{type: str, default: "{negative}", about: What to avoid.}}
  width: {{type: int, default: {size}, min: 16}}
  height: {{type: int, default: {size}, min: 16}}
  steps: {{type: int, default: {steps}, min: 1}}{note}
  scale: {{type: float, default: {scale}, about: "Guidance scale; {neutral} and less turn guidance off."}}
  seed: {{type: int, default: 0}}

nodes:
  model: {{uses: model.load, with: {{source: "{source}"}}}}
  image:
    uses: sgd:parts/text_to_image
    with:
      model: $model
      prompt: $prompt
      negative: $negative
      width: $width
      height: $height
      steps: $steps
      scale: $scale{embedded}
      seed: $seed
  file: {{uses: image.save, with: {{frames: $image, path: "${{name}}-${{seed}}.png"}}}}

outputs: {{image: $file}}
"""

# Defaults of WanPipeline.__call__ (diffusers 0.42, pipelines/wan/pipeline_wan.py) and the frame rate of Wan 2.1.
WAN: dict[str, Any] = {"width": 832, "height": 480, "frames": 81, "steps": 50, "scale": 5.0, "fps": 16}
# Of the examples and defaults of the pipelines in diffusers 0.42, and of the documentation of FLUX.1-dev.
IMAGE: dict[str, Any] = {
    "negative": "",
    "size": 1024,
    "steps": 50,
    "scale": 1.0,
    "neutral": 1,
    "note": "",
    "embedded": "",
}
Z_IMAGE = IMAGE | {"steps": 8, "scale": 0.0, "neutral": 0, "note": "  # Z-Image-Turbo; Z-Image: 50, and a scale of 4"}
QWEN_IMAGE = IMAGE | {"negative": " ", "size": 1328, "scale": 4.0}
FLUX_DEV = IMAGE | {"embedded": "\n      embedded: 3.5  # guidance scale that is an input of the model"}
FLUX_SCHNELL = IMAGE | {"steps": 4}

Template = tuple[str, Mapping[str, Any]]
TEMPLATES: Mapping[str, Template] = {
    "wan": (TEXT_TO_VIDEO, WAN),
    "z-image": (TEXT_TO_IMAGE, Z_IMAGE),
    "flux": (TEXT_TO_IMAGE, FLUX_DEV),
    "qwen-image": (TEXT_TO_IMAGE, QWEN_IMAGE),
}


def starter(source: str) -> tuple[str, str]:
    """A name and the text of a workflow for the model at `source`, a folder or a name on the hub.

    Raises:
        NodeError: If there is no such model, or it is of no known family.
    """
    from .families import by_pipeline
    from .models.repository import open_repository

    local = Path(source).expanduser()
    given = str(local.resolve()) if local.exists() else source
    repository = open_repository(given, None, Run(), configs_only=True)
    family = by_pipeline(repository.pipeline)
    if family is None or family.name not in TEMPLATES:
        raise NodeError(
            f"{source} is for {repository.pipeline}, which is of no family that sgd can write a workflow for",
            help="families: " + ", ".join(TEMPLATES),
        )
    text, values = TEMPLATES[family.name]
    if values is FLUX_DEV and not repository.config("transformer").get("guidance_embeds"):
        values = FLUX_SCHNELL
    name = re.sub(r"[^a-z0-9]+", "-", Path(given).name.lower()).strip("-") or family.name
    return name, text.format(name=name, source=_quoted(given), **values)


def _quoted(text: str) -> str:
    """Text as it stands between double quotes in a workflow file."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
