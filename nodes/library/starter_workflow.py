"""`sgd init`: write a first workflow for a model, by adapting the bundled workflow for this kind of model."""

from __future__ import annotations

import re
from pathlib import Path

from ...graph.contract.errors import NodeError
from ...graph.contract.node import Run
from ...graph.contract.workflow_folders import bundled_workflows
from ..models.repository.repository import Repository

# The key is the pipeline class. If a class runs several kinds of model, the key also names the configuration.
WORKFLOWS = {
    "WanPipeline": "wan2_1_t2v",
    "WanPipeline with two experts": "wan2_2_t2v_a14b",
    "WanPipeline with expanded timesteps": "wan2_2_ti2v_5b",
    "WanImageToVideoPipeline": "wan2_1_i2v",
    "WanImageToVideoPipeline with two experts": "wan2_2_i2v_a14b",
    "WanImageToVideoPipeline with expanded timesteps": "wan2_2_ti2v_5b_image",
    "HunyuanVideoPipeline": "hunyuan_video",
    "ZImagePipeline": "z_image_turbo",
    "QwenImagePipeline": "qwen_image",
    "FluxPipeline": "flux_dev",
}


def starter(source: str) -> tuple[str, str]:
    """Write a workflow for the model at `source` (a folder or a name on the hub). Returns its name and its text.

    Sizes, steps and scales are those of the bundled workflow. They fit the model that it was written for.

    Raises:
        NodeError: If there is no such model, or sgd has no workflow for this kind of model.
    """
    from ..models.repository.repository import open_repository

    local = Path(source).expanduser()
    given = str(local.resolve()) if local.exists() else source
    repository = open_repository(given, None, Run(), configs_only=True)
    workflow = WORKFLOWS.get(kind(repository))
    if workflow is None:
        raise NodeError(
            f"{source} is a model for {repository.pipeline}, and sgd has no workflow for this pipeline",
            help="known pipelines: " + ", ".join(dict.fromkeys(k.split()[0] for k in WORKFLOWS)),
        )
    name = re.sub(r"[^a-z0-9]+", "-", Path(given).name.lower()).strip("-") or workflow
    text = (bundled_workflows() / f"{workflow}.yaml").read_text(encoding="utf-8")
    if repository.pipeline == "FluxPipeline" and not repository.config("transformer").get("guidance_embeds"):
        # FLUX.1-schnell takes no guidance scale.
        text = "".join(
            line for line in text.splitlines(keepends=True) if not re.search("guidance:|guidance$|The model was", line)
        )
    return name, adapt(text, name, given, workflow)


def kind(repository: Repository) -> str:
    """The kind of a model, as a key of `WORKFLOWS`."""
    index = repository.index
    if index.get("expand_timesteps"):
        return f"{repository.pipeline} with expanded timesteps"
    experts = "transformer_2" in repository.components and index.get("boundary_ratio") is not None
    return f"{repository.pipeline} with two experts" if experts else repository.pipeline


def adapt(text: str, name: str, source: str, workflow: str) -> str:
    """Adapt the text of a bundled workflow to another model and another folder."""
    about = f"After sgd's workflow {workflow}, for {source}. Check the sizes, steps and scales."
    text = re.sub(r"^name: .*$", lambda _: f"name: {name}", text, count=1, flags=re.MULTILINE)
    text = re.sub(r"^about: .*$", lambda _: f"about: {quoted(about)}", text, count=1, flags=re.MULTILINE)
    text = re.sub(
        r"(\{source: |source: \{type: str, default: )[\w.-]+/[\w.-]+",
        lambda m: m[1] + quoted(source.replace("$", "$$")),
        text,
    )
    # A gate's threshold for the bundled workflow's model does not fit another model.
    text = re.sub(r"^(  cache: \{type: float, default: )[\d.]+", r"\g<1>0", text, flags=re.MULTILINE)
    text = re.sub(r"\./(parts/\w+)\.yaml", r"sgd:\1", text)
    # The default image of the bundled workflow is not copied.
    return re.sub(r"(type: path), default: images/[\w.]+", r"\1", text)


def quoted(text: str) -> str:
    """Text as a double-quoted YAML scalar."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
