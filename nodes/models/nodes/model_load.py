"""`model.load`: names a model. A component is loaded when a node first reads it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from ....graph.contract.diagnostics import Diagnostic
from ....graph.contract.errors import NodeError
from ....graph.contract.facts import NodeFacts
from ....graph.contract.node import Run, Source, node
from ...value_facts import ModelFacts
from ..model import IMAGE_ENCODER, SECOND_ENCODER, Model
from ..repository.component_files import component_problems
from ..repository.component_notes import note_configs
from ..repository.hub import is_hub_id
from ..repository.repository import Repository, find, no_folder, open_repository

if TYPE_CHECKING:
    from ...families import Family
    from ..checkpoints.checkpoint_source import Checkpoint

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


COMPONENTS = ("transformer", "transformer_2", "vae", "text_encoder", "text_encoder_2")
"""Components that may come from one file; parameters of `model.load` have the same names."""


@dataclass(frozen=True, kw_only=True)
class ModelLoadFacts(NodeFacts):
    """Facts of `model.load`."""

    source: str | None = None
    revision: str | None = None
    dtype: Dtype | None = None
    vae_dtype: Dtype | None = None
    variant: str | None = None
    offload: str | None = None
    transformer: str | None = None
    transformer_2: str | None = None
    vae: str | None = None
    text_encoder: str | None = None
    text_encoder_2: str | None = None

    @property
    def checkpoints(self) -> dict[str, str]:
        """The one-file checkpoints by component."""
        named = {part: getattr(self, part) for part in COMPONENTS}
        return {part: source for part, source in named.items() if source is not None}


def _find(facts: ModelLoadFacts) -> Repository | None:
    return find(facts.source, facts.revision) if facts.source is not None else None


def _describe(facts: ModelLoadFacts) -> ModelFacts:
    from ...families import by_pipeline

    try:
        repository = _find(facts)
        if repository is None:
            return ModelFacts()
        family = by_pipeline(repository.pipeline)
        if family is None:
            return ModelFacts()
        configs = {part: repository.config(part) for part in repository.components if repository.config_file(part)}
    except NodeError:
        return ModelFacts()  # `check` reports the reason
    return ModelFacts(
        family=family.name,
        source=repository.source,
        folder=None if repository.kind == "bundled" else str(repository.folder),
        variant=facts.variant,
        dtype=None if facts.dtype == "auto" else facts.dtype,
        components={part: name for part, (_, name) in repository.components.items()},
        configs={"model_index": dict(repository.index), **configs},
        checkpoints=facts.checkpoints,
    )


def _check(facts: ModelLoadFacts) -> Iterator[Diagnostic]:
    repository = None
    try:
        repository = _find(facts)
        if repository is not None:
            _family(repository)
            for part in repository.components:  # nodes read configurations of components that are not loaded
                if repository.config_file(part) is not None:
                    repository.config(part)
        elif facts.source is not None and not is_hub_id(facts.source):
            raise no_folder(facts.source)
    except NodeError as error:
        yield replace(error.diagnostic, place="source")
    if facts.checkpoints:
        from ..checkpoints import checkpoint_checks

        yield from checkpoint_checks.problems(repository, facts.checkpoints)


def _check_parts(facts: ModelLoadFacts, parts: frozenset[str], options: Mapping[str, Any]) -> Iterator[Diagnostic]:
    """Problems of the files of components, as far as their headers tell. A run with dummy weights reads none."""
    try:
        repository = _find(facts)
    except NodeError:
        return  # `_check` reports it
    if repository is None or repository.kind == "bundled" or options.get("weights") == "dummy":
        return
    for part in sorted(parts):
        if part in facts.checkpoints:
            continue
        if part in repository.components or part not in (*SECOND_ENCODER, *IMAGE_ENCODER):
            for problem in component_problems(repository, part, facts.variant):
                yield replace(problem, place="source")


@node("model.load", describe=_describe, check=_check, check_parts=_check_parts)
def load(
    run: Run,
    source: Source,
    *,
    revision: str | None = None,
    dtype: Dtype = "auto",
    vae_dtype: Dtype = "auto",
    variant: str | None = None,
    offload: Literal["auto", "off"] = "auto",
    transformer: Source | None = None,
    transformer_2: Source | None = None,
    vae: Source | None = None,
    text_encoder: Source | None = None,
    text_encoder_2: Source | None = None,
) -> Model:
    """Name a model: a folder in diffusers' layout, or a repository on the Hugging Face hub.

    This node reads only model_index.json and the components' configurations. The weights of a component are read just
    before the first node that uses it, and downloaded if they are not in the cache. A component that no node uses is
    never downloaded. Only safetensors and GGUF files are read.

    A component may come from one file instead: in diffusers' layout, in the layout of the model's original repository
    or of ComfyUI, with scaled fp8 weights, or as GGUF. The file is recognised by its content. Quantised weights are
    computed in float32 when they are loaded, and cast to `dtype`. `source` gives the configuration of the component,
    and all other components. docs/checkpoints.md describes the files.

    Args:
        source: A folder that holds model_index.json, or `owner/name` on the hub.
        revision: Branch, tag or commit on the hub; without it, the default branch. Name a commit to get the
            same weights every time.
        dtype: Dtype of the weights and the computation. `auto` is bfloat16 on a GPU and float32 on a CPU. With `auto`,
            the image encoder of the Wan family is float32, as its documentation recommends.
        vae_dtype: Dtype of the VAE. `auto` is float32 for the Wan family, as its documentation recommends, and `dtype`
            for other families.
        variant: Variant of the weight files, such as `fp16`. A component without this variant is read from its
            ordinary files, with a warning.
        offload: `auto` offloads a component whose weights do not fit in the free memory of a GPU, with a warning, as
            `model.offload` does. `off` never offloads.
        transformer: Checkpoint of the transformer: one safetensors or GGUF file, or `owner/name/file` on the hub.
        transformer_2: Checkpoint of the second expert of Wan 2.2.
        vae: Checkpoint of the VAE.
        text_encoder: Checkpoint of the text encoder.
        text_encoder_2: Checkpoint of the second text encoder.

    Returns:
        A model whose components are not in memory yet.

    Raises:
        NodeError: If there is no such model, it is not in diffusers' layout, its family is unknown, or it cannot be
            reached; if a checkpoint is missing, damaged, or does not fit its component.
    """
    from ..memory.weights import Weights

    dummy = run.options.get("weights") == "dummy"
    repository = open_repository(source, revision, run, configs_only=run.planning or dummy)
    family = _family(repository)
    wanted = _auto(dtype, run)
    if vae_dtype == "auto":
        dtype_of_vae = "float32" if "vae" in family.float32 else wanted
    else:
        dtype_of_vae = vae_dtype
    kind = "meta" if run.planning else "dummy" if dummy else "real"
    dtypes = dict.fromkeys(family.float32, "float32") if dtype == "auto" else {}
    dtypes["vae"] = dtype_of_vae
    named = dict(zip(COMPONENTS, (transformer, transformer_2, vae, text_encoder, text_encoder_2), strict=True))
    checkpoints = _checkpoints({part: file for part, file in named.items() if file is not None}, repository, run)
    weights = Weights(repository, wanted, run.device, dtypes, variant, kind, offload, checkpoints)
    if run.session is not None and not run.planning:
        from ..memory.kept_weights import KEY, KeptWeights

        weights = run.session.keep(KEY, KeptWeights).shared(weights, run)
    if kind == "real":
        note_configs(repository, run)
    run.detail(dtype=wanted, vae_dtype=dtype_of_vae)
    if repository.commit:
        run.detail(commit=repository.commit)
    if dummy:
        run.detail(weights="dummy")
        run.warn("the weights are random: the results and the decisions of cache gates are meaningless")
    return Model(weights, family)


def _checkpoints(sources: Mapping[str, str], repository: Repository, run: Run) -> dict[str, Checkpoint]:
    if not sources:
        return {}
    from ..checkpoints import named_checkpoints

    return named_checkpoints.find_all(sources, repository, run)


def _auto(dtype: str, run: Run) -> str:
    if dtype != "auto":
        return dtype
    # A plan is traced on the meta device, but its dtype is that of the device of the run.
    device = str(run.options.get("device", "cpu")) if run.planning else run.device
    return "float32" if device == "cpu" else "bfloat16"


def _family(repository: Repository) -> Family:
    from ...families import FAMILIES, by_pipeline

    family = by_pipeline(repository.pipeline)
    if family is None:
        known = "; ".join(f"{f.name} ({', '.join(f.pipelines)})" for f in FAMILIES.values())
        raise NodeError(
            f"{repository.source}: its model_index.json is for {repository.pipeline}, which belongs to no known model "
            "family",
            help=f"known families: {known}",
        )
    return family
