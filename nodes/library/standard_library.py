"""The library object of the standard library. A method imports the heavy modules that it needs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from ...graph.contract.kernel_caches import KernelCache
from ...graph.contract.library_command import LibraryCommand, RunOption
from ...graph.contract.node_library import NodeLibrary, PlanMeter
from ..models.attention.choice_files import ATTENTION_CHOICES

if TYPE_CHECKING:
    from pathlib import Path

    from ...graph.contract.array_storage import ArrayStorage
    from ...graph.contract.diagnostics import Diagnostic
    from ...graph.contract.events import CallInfo, Observer
    from ...graph.contract.file_edits import FileEdit
    from ...graph.contract.likeness import Likeness
    from ...graph.contract.machine_limits import MachineLimits, WorkMeter
    from ...graph.contract.node import Run
    from ...graph.contract.previews import Previews
    from ...graph.contract.processes import Mesh
    from ...graph.contract.rank_start import JoinedRanks, PlannedRanks, RankPlace, StartedRanks
    from ...graph.contract.report_section import ReportSection
    from ...graph.contract.second_stream import SecondDevice, SecondStream
    from ...graph.contract.value_statistics import ValueStatistics

WEIGHTS = RunOption(
    "weights",
    "dummy: random weights of the model's size, for benchmarks and dry runs",
    choices=("real", "dummy"),
    decides=True,
)
TRUST_REMOTE_CODE = RunOption("trust-remote-code", "let a model repository run its own Python code", permission=True)

NO_CHECK_FINITE = RunOption(
    "no-check-finite",
    "go on with numbers that are NaN or infinite, and save what comes of them",
    commands=("exec",),
    decides=True,
)

GATES = RunOption(
    "gates", "print the decision of cache gates at every step, not a line for each gate", commands=("exec",)
)

CALIBRATE = LibraryCommand(
    "calibrate",
    "measure a workflow's model and schedule, and write a table for cache gates",
    "sgd.nodes.cache.calibration.calibrate",
)

TUNE = LibraryCommand(
    "tune",
    "find the cheapest cache gate that keeps a fidelity, and write it into the file",
    "sgd.nodes.cache.tuning.tune",
)


KERNEL_CACHES = (
    KernelCache("Triton", "triton", "TRITON_CACHE_DIR", switches=(("TRITON_CACHE_AUTOTUNING", "1"),)),
    KernelCache("torch.compile", "inductor", "TORCHINDUCTOR_CACHE_DIR"),
    KernelCache("CuTe", "cute", "CUTE_DSL_CACHE_DIR"),
    KernelCache("FlashAttention 4", "flash-attention-4", "FLASH_ATTENTION_CUTE_DSL_CACHE_DIR"),
    ATTENTION_CHOICES,
)
"""Caches of kernels. The switch makes Triton keep what it measured (`triton.autotune`), not only what it compiled."""


class StandardLibrary(NodeLibrary):
    """Everything that sgd knows about diffusion."""

    node_modules = (
        "models.nodes.model_load",
        "models.nodes.model_lora",
        "models.nodes.model_attention",
        "models.nodes.model_offload",
        "models.nodes.model_quantize",
        "models.nodes.model_optimize",
        "models.nodes.model_compile",
        "models.nodes.model_expert",
        "text",
        "latents",
        "schedule",
        "cfg",
        "denoiser",
        "vae",
        "video",
        "frames_layout",
        "image",
        "image_condition",
        "metrics",
        "cache.methods.no_gate",
        "cache.methods.fora",
        "cache.methods.dbcache",
        "cache.methods.taylorseer",
        "cache.methods.scm",
        "cache.methods.teacache",
        "cache.methods.magcache",
        "cache.methods.easycache",
        "cache.methods.tuned_gate",
        "cache.methods.custom_gate",
        "cache.methods.cache_dit_options",
    )
    uses_gpu = True
    starts_ranks = True
    packages = ("torch", "diffusers", "transformers", "av", "pillow")
    kernel_caches = KERNEL_CACHES
    recorded_events = ("gate",)
    commands = (CALIBRATE, TUNE)
    options = (WEIGHTS, TRUST_REMOTE_CODE, NO_CHECK_FINITE, GATES)
    starter_sources = "a model: a folder, or a name on the Hugging Face hub"
    example_file = "sgd:images/boat.png"
    out_of_memory_help = "a smaller size, fewer frames or a narrower dtype need less memory; `sgd plan` says how much"

    def prepare_imports(self) -> None:
        """Put off modules that few runs use."""
        from ..support.start import prepare_imports

        prepare_imports()

    @contextmanager
    def around_run(self, run: Run) -> Iterator[None]:
        """Switch gradients off. In a plan, count attention as one operation."""
        from ..support import cost_meter

        with cost_meter.runtime(run):
            yield

    def second_stream(self, run: Run) -> SecondStream:
        """On a GPU, a CUDA stream of its own for the second thread."""
        if not run.device.startswith("cuda"):
            return super().second_stream(run)
        from ..support.cuda_second_stream import CudaSecondStream

        return CudaSecondStream(run.device)

    def second_device(self, run: Run, device: str) -> SecondDevice:
        """Streams on both GPUs. Tensors are copied, and models load their components on the other GPU too."""
        from ..models.second_card import SecondCard

        return SecondCard(run, device)

    def start_ranks(self, command: Sequence[str], count: int, logs: Path) -> StartedRanks:
        """Start processes on this host, with torch.distributed.elastic."""
        from ..models.ranks.starting import LocalRanks

        return LocalRanks(command, count, logs)

    def join_ranks(self, place: RankPlace, mesh: Mesh, device: str) -> JoinedRanks:
        """Reach the store of the launcher, from a rank."""
        from ..models.ranks.joining import TorchRanks

        return TorchRanks(place, mesh, device)

    def plan_ranks(self, mesh: Mesh) -> PlannedRanks:
        """Ranks that exchange nothing."""
        from ..models.ranks.planned_processes import TracedRanks

        return TracedRanks(mesh)

    def import_packages(self, run: Run) -> None:
        """Import the packages that every model needs, and start the GPU meanwhile."""
        from ...graph.contract.interrupts import installed
        from ...graph.contract.process_state import exclusive
        from ..support.device_start import device_starting
        from ..support.distributions import made_when_asked

        quick = made_when_asked() if installed() else nullcontext()
        # Packages whose modules import each other are imported by one thread.
        with exclusive(), device_starting(run.device), quick:
            import diffusers.utils.torch_utils  # noqa: F401
            import transformers.dependency_versions_check  # noqa: F401

    def value_checks(self, run: Run) -> Sequence[Observer]:
        """No node changes its inputs or leaves the device; numbers are finite, except with `--no-check-finite`."""
        from ..support.finite import OFF, FiniteCheck
        from ..support.unchanged_inputs import UnchangedInputs

        checks: list[Observer] = [UnchangedInputs(run)]
        if not run.planning and not run.options.get(OFF):
            checks.append(FiniteCheck(run, _decodes_or_writes))
        return checks

    def value_statistics(self, value: Any) -> Sequence[ValueStatistics]:
        """Statistics of tensors of torch."""
        from ..support.tensor_statistics import statistics_of

        return statistics_of(value)

    def array_storage(self, run: Run) -> ArrayStorage:
        """Stores tensors of torch and arrays of NumPy."""
        from ..support.tensor_storage import TensorStorage

        return TensorStorage(run.device)

    def source_path(self, source: str, arguments: Mapping[str, Any]) -> Path | None:
        """The folder of a repository of the hub in the local cache, or a file of it."""
        from ...graph.contract.errors import NodeError
        from ..models.repository import hub

        revision = arguments.get("revision")
        try:
            file = hub.hub_file(source)
            if file is None:
                return hub.cached(source, revision)
            folder = hub.cached(file.repository, revision, file.name)
            return folder / file.name if folder is not None else None
        except NodeError:
            return None  # the node says why

    def plan_meter(self, run: Run) -> AbstractContextManager[PlanMeter]:
        """Counts operations and memory of tensors on the meta device."""
        from ..support import cost_meter

        return cost_meter.meter(run)

    def work_meter(self, run: Run) -> WorkMeter:
        """Counts the operations that torch dispatches."""
        from ..support.work_meter import OperationMeter

        return OperationMeter(run.device)

    def limits_key(self, device: str) -> str:
        """The card or processor, and the version of torch."""
        from .rate_measuring import key

        return key(device)

    def measure_limits(self, device: str) -> MachineLimits:
        """Measure matrix products, copies, transfers and the disk."""
        from .rate_measuring import measure

        return measure(device)

    def previews(self) -> Previews:
        """The clip that each step of a denoise loop predicts, by a linear map from its latents to colours."""
        from .latent_previews import LatentPreviews

        return LatentPreviews()

    def table_section(self, record: Mapping[str, Any]) -> str:
        """A line for each cache gate; with `--gates`, its decision at every step."""
        from ..cache.decisions_table import report, summary

        return report(record) if record.get("options", {}).get(GATES.key) else summary(record)

    def computed_share(self, record: Mapping[str, Any]) -> float | None:
        """The share of evaluations that cache gates computed in full; None without a gate."""
        totals = record.get("gate_totals", [])
        computed = sum(total["computed"] for total in totals)
        taken = computed + sum(total["reused"] for total in totals)
        return computed / taken if taken else None

    def report_sections(self, record: Mapping[str, Any]) -> Sequence[ReportSection]:
        """The decisions of cache gates, with the distances that they compared."""
        from ..cache.decisions_section import section

        return section(record)

    def memory_advice(self, estimate: Mapping[str, Any]) -> list[str]:
        """Lines of advice: offloading, narrower weights and tiling, each with the peak memory after it."""
        from .memory_advice import advice_for

        return advice_for(estimate)

    def memory_edits(self, estimate: Mapping[str, Any], origins: Mapping[str, str]) -> Sequence[FileEdit]:
        """Nodes `model.offload`, and values of `dtype`, `vae_dtype` and `tiling`."""
        from .memory_edits import edits_for

        return edits_for(estimate, origins)

    def chosen_edits(self, estimate: Mapping[str, Any], origins: Mapping[str, str]) -> Sequence[FileEdit]:
        """The components that `offload: auto` offloads, and the work that `tiling: auto` does in tiles."""
        from .memory_edits import chosen

        return chosen(estimate, origins)

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether torch ran out of memory, on a GPU or on the CPU."""
        if "torch" not in sys.modules:
            return False
        from ..support.device_memory import exhausted

        return exhausted(error)

    def machine_facts(self) -> dict[str, dict[str, str]]:
        """Versions of packages, attention backends, and access to the model hub."""
        from .machine_facts import machine_facts

        return machine_facts()

    def foreign_file(self, path: Path) -> Diagnostic | None:
        """The problem of a workflow of ComfyUI, in JSON, or in a picture or clip that carries it."""
        from .comfyui.foreign_workflow import foreign_workflow

        return foreign_workflow(path)

    def recipe_text(self, path: Path) -> str | None:
        """The recipe in a picture, a clip or a file of latents."""
        from .recipe_reading import recipe_text

        return recipe_text(path)

    def likeness(
        self, before: Path, after: Path, progress: Callable[[int], None], network: Path | None = None
    ) -> Likeness | None:
        """PSNR, SSIM and, with the file of its network, LPIPS of two pictures or clips.

        Raises:
            NodeError: If one of the files cannot be read.
            UnfitNetwork: If `network` cannot be read, or is of no known kind.
        """
        from .media_likeness import likeness

        return likeness(before, after, progress, network)

    def starter(self, source: str) -> tuple[str, str]:
        """Name and text of a workflow for a model, from the bundled workflow for this kind of model.

        Raises:
            NodeError: If there is no such model, or it is of no known kind.
        """
        from .starter_workflow import starter

        return starter(source)


def _decodes_or_writes(call: CallInfo) -> bool:
    """Whether a call writes files, or makes frames of latents."""
    if call.type.effect:
        return True
    inputs = {(parameter.type.item or parameter.type).name for parameter in call.type.inputs.values()}
    outputs = {(output.type.item or output.type).name for output in call.type.outputs}
    return "Latents" in inputs and "Frames" in outputs
