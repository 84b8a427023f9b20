"""Reads the nodes of a ComfyUI workflow: models, LoRA files, and settings of samplers.

Two formats exist. The API format maps ids to `{class_type, inputs}`. The editor's format lists
`{type, widgets_values}`, in which values have places and no names; `WIDGETS` names them. The values are of any type: a
workflow may be damaged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

MOST_NODES = 5000
NODE_KEYS = {"widgets_values", "inputs", "outputs", "pos"}
OFF = (2, 4)  # modes of nodes in the editor that are muted or bypassed

_SAMPLER = ("steps", "cfg", "sampler_name", "scheduler")
WIDGETS: Mapping[str, tuple[str, ...]] = {
    "CheckpointLoaderSimple": ("ckpt_name",),
    "UNETLoader": ("unet_name", "weight_dtype"),
    "UnetLoaderGGUF": ("unet_name",),
    "UnetLoaderGGUFAdvanced": ("unet_name",),
    "DiffusionModelLoaderKJ": ("model_name",),
    "CLIPLoader": ("clip_name", "type"),
    "CLIPLoaderGGUF": ("clip_name", "type"),
    "DualCLIPLoader": ("clip_name1", "clip_name2", "type"),
    "DualCLIPLoaderGGUF": ("clip_name1", "clip_name2", "type"),
    "TripleCLIPLoader": ("clip_name1", "clip_name2", "clip_name3"),
    "VAELoader": ("vae_name",),
    "LoraLoader": ("lora_name", "strength_model", "strength_clip"),
    "LoraLoaderModelOnly": ("lora_name", "strength_model"),
    "KSampler": ("seed", "", *_SAMPLER, "denoise"),
    "KSamplerAdvanced": ("add_noise", "noise_seed", "", *_SAMPLER, "start_at_step", "end_at_step"),
    "SamplerCustom": ("add_noise", "noise_seed", "", "cfg"),
    "BasicScheduler": ("scheduler", "steps", "denoise"),
    "KSamplerSelect": ("sampler_name",),
    "RandomNoise": ("noise_seed",),
    "CFGGuider": ("cfg",),
    "FluxGuidance": ("guidance",),
    "ModelSamplingSD3": ("shift",),
    "ModelSamplingAuraFlow": ("shift",),
    "ModelSamplingFlux": ("max_shift", "base_shift", "width", "height"),
    "EmptyLatentImage": ("width", "height", "batch_size"),
    "EmptySD3LatentImage": ("width", "height", "batch_size"),
    "EmptyHunyuanLatentVideo": ("width", "height", "length", "batch_size"),
    "WanImageToVideo": ("width", "height", "length", "batch_size"),
    "Wan22ImageToVideoLatent": ("width", "height", "length", "batch_size"),
    "WanVideoModelLoader": ("model", "base_precision", "quantization"),
    "WanVideoVAELoader": ("model_name", "precision"),
    "LoadWanVideoT5TextEncoder": ("model_name", "precision"),
    "WanVideoLoraSelect": ("lora", "strength"),
    "WanVideoSampler": ("steps", "cfg", "shift", "seed", "", "force_offload", "scheduler"),
    "WanVideoEmptyEmbeds": ("width", "height", "num_frames"),
    "HyVideoModelLoader": ("model", "base_precision", "quantization"),
    "HyVideoLoraSelect": ("lora", "strength"),
    "HyVideoSampler": ("width", "height", "num_frames", "steps", "embedded_guidance_scale", "flow_shift", "seed"),
}
"""Names of the values of nodes, in the editor's order (nodes.py and comfy_extras/ of ComfyUI, nodes.py of
ComfyUI-GGUF, ComfyUI-WanVideoWrapper and ComfyUI-HunyuanVideoWrapper). A value without a name has none in the API."""

SETTINGS = (
    *("steps", "cfg", "guidance", "embedded_guidance_scale", "sampler_name", "scheduler", "denoise", "seed"),
    *("noise_seed", "shift", "flow_shift", "max_shift", "base_shift", "start_at_step", "end_at_step"),
    *("width", "height", "length", "num_frames", "batch_size"),
)
SETTING_NODES = ("sampl", "schedul", "guid", "noise", "latent", "embeds", "imagetovideo")
"""Parts of the class names of nodes whose settings are listed, in small letters."""
ENDINGS = (".safetensors", ".sft", ".gguf", ".ckpt", ".pt", ".pth", ".bin")


@dataclass(frozen=True)
class ComfyNode:
    """A node: its id and class, and its values by name. The values are as they stand in the file."""

    id: str
    kind: str
    values: Mapping[str, Any]


@dataclass
class ComfyWorkflow:
    """The findings in a workflow: names of files by use, and settings by node.

    Attributes:
        format: `API` or `editor`.
        models: Names of files of diffusion models.
        others: Names of files of text encoders, VAEs and others.
        loras: Names of LoRA files, each with its strength, if it has one.
        settings: For each node with settings: its class and id, and the settings by name.
    """

    format: str
    models: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    loras: list[tuple[str, Any]] = field(default_factory=list)
    settings: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)


def comfy_workflow(value: Any) -> ComfyWorkflow | None:
    """The findings in a JSON value; None if it is no workflow of ComfyUI."""
    if not isinstance(value, dict):
        return None
    nodes = list(_of_api(value))
    found = ComfyWorkflow("API" if nodes else "editor")
    if not nodes:
        nodes = list(_of_editor(value, 0))
    if not nodes:
        return None
    for node in nodes[:MOST_NODES]:
        _collect(node, found)
    return found


def _of_api(value: Mapping[str, Any]) -> Iterator[ComfyNode]:
    for id, node in value.items():
        if isinstance(node, dict) and isinstance(node.get("class_type"), str):
            inputs = node.get("inputs")
            yield ComfyNode(str(id), node["class_type"], inputs if isinstance(inputs, dict) else {})


def _of_editor(value: Mapping[str, Any], depth: int) -> Iterator[ComfyNode]:
    """The nodes of a graph, and those of the subgraphs that it defines."""
    nodes = value.get("nodes")
    for node in nodes if isinstance(nodes, list) else ():
        if not isinstance(node, dict) or not isinstance(node.get("type"), str):
            continue
        if "id" not in node or node.get("mode") in OFF or not NODE_KEYS & set(node):
            continue
        widgets = node.get("widgets_values")
        if isinstance(widgets, list):
            names = WIDGETS.get(node["type"], ())
            named = {name: v for name, v in zip(names, widgets, strict=False) if name}
            rest = {f"{number}": v for number, v in enumerate(widgets) if number >= len(names)}
            widgets = named | rest
        yield ComfyNode(str(node["id"]), node["type"], widgets if isinstance(widgets, dict) else {})
    definitions = value.get("definitions")
    subgraphs = definitions.get("subgraphs") if isinstance(definitions, dict) else None
    for graph in subgraphs if isinstance(subgraphs, list) and depth < 3 else ():
        if isinstance(graph, dict):
            yield from _of_editor(graph, depth + 1)


def _collect(node: ComfyNode, found: ComfyWorkflow) -> None:
    kind = node.kind.lower()
    for name, value in node.values.items():
        if isinstance(value, dict) and isinstance(value.get("lora"), str) and value.get("on", True):
            found.loras.append((value["lora"], value.get("strength")))  # one row of a loader of several files
        if not isinstance(value, str) or not value.lower().endswith(ENDINGS):
            continue
        if "lora" in kind or "lora" in name.lower():
            strength = node.values.get("strength_model", node.values.get("strength", node.values.get("1")))
            found.loras.append((value, strength))
        elif any(word in f"{kind} {name.lower()}" for word in ("vae", "clip", "t5", "text", "upscale", "control")):
            found.others.append(value)
        else:
            found.models.append(value)
    if any(word in kind for word in SETTING_NODES):
        settings = {n: v for n in SETTINGS if isinstance(v := node.values.get(n), str | int | float)}
        if settings:
            found.settings.append((f"{node.kind} {node.id}", settings))
