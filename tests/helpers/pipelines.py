"""diffusers' own pipeline of a model's family, around the model's tokenizers and text encoders."""

from __future__ import annotations

from typing import Any

import diffusers
from sgd.nodes.models.model import Model

PARTS = ("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2")


def pipeline_of(model: Model) -> Any:
    """A pipeline that can encode prompts and nothing else."""
    repository = model.weights.repository
    parts = {part: model.component(part) for part in PARTS if part in repository.components}
    absent = dict.fromkeys({"transformer", "vae", "scheduler"})
    return getattr(diffusers, repository.pipeline)(**parts, **absent)
