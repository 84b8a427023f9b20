"""`model.load`: names a model. A component is loaded when a node first reads it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from ....graph.contract.diagnostics import Diagnostic
from ....graph.contract.errors import NodeError
from ....graph.contract.facts import NodeFacts
from ....graph.contract.node import Run, Source, node
from ...value_facts import ModelFacts
from ..model import Model
from ..repository.repository import Repository, find, open_repository

if TYPE_CHECKING:
    from ...families import Family

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class ModelLoadFacts(NodeFacts):
    """Facts of `model.load`."""

    source: str | None = None
    revision: str | None = None
    dtype: Dtype | None = None
    vae_dtype: Dtype | None = None
    variant: str | None = None
    offload: str | None = None


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
    )


def _check(facts: ModelLoadFacts) -> Iterator[Diagnostic]:
    try:
        repository = _find(facts)
        if repository is not None:
            _family(repository)
    except NodeError as error:
        yield replace(error.diagnostic, place="source")


@node("model.load", describe=_describe, check=_check)
def load(
    run: Run,
    source: Source,
    *,
    revision: str | None = None,
    dtype: Dtype = "auto",
    vae_dtype: Dtype = "auto",
    variant: str | None = None,
    offload: Literal["auto", "off"] = "auto",
) -> Model:
    """Name a model: a folder in diffusers' layout, or a repository on the Hugging Face hub.

    This node reads only model_index.json and the components' configurations. The weights of a component are read just
    before the first node that uses it, and downloaded if they are not in the cache. A component that no node uses is
    never downloaded. Only safetensors files are read.

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

    Returns:
        A model whose components are not in memory yet.

    Raises:
        NodeError: If the model does not exist, is not in diffusers' layout, is of an unknown family, or cannot be
            downloaded.
    """
    from ..memory.weights import Weights

    dummy = run.options.get("weights") == "dummy"
    repository = open_repository(source, revision, run, configs_only=run.planning or dummy)
    family = _family(repository)
    wanted = _auto(dtype, run)
    if vae_dtype == "auto":
        vae = "float32" if "vae" in family.float32 else wanted
    else:
        vae = vae_dtype
    kind = "meta" if run.planning else "dummy" if dummy else "real"
    dtypes = dict.fromkeys(family.float32, "float32") if dtype == "auto" else {}
    dtypes["vae"] = vae
    weights = Weights(repository, wanted, run.device, dtypes, variant, kind, offload)
    run.detail(dtype=wanted, vae_dtype=vae)
    if repository.commit:
        run.detail(commit=repository.commit)
    if dummy:
        run.detail(weights="dummy")
        run.warn("the weights are random: the results and the decisions of cache gates are meaningless")
    return Model(weights, family)


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
            f"{repository.source} is a model for {repository.pipeline}, which belongs to no known model family",
            help=f"known families: {known}",
        )
    return family
