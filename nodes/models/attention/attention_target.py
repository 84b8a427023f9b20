"""The component whose attention backend is chosen, and the backends that it can use on a machine. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ....graph.contract.cards import planned_card
from ....graph.contract.diagnostics import Diagnostic
from ....graph.contract.node import Run
from . import backends, choice_files, encoder_attention
from .backend_table import BACKENDS, FLASH_3_FP8, MASKS, Backend, Masks


@dataclass(frozen=True)
class Target:
    """The component whose attention backend is chosen.

    Attributes:
        role: The component's role, such as `transformer`.
        config: The component's configuration; empty if unknown.
        class_name: The component's class; empty if unknown.
        dtype: Name of the component's dtype; None if unknown.
        device: Device of the run, such as `cpu`, `cuda` or `cuda:1`; None if unknown.
    """

    role: str
    config: Mapping[str, Any]
    class_name: str
    dtype: str | None
    device: str | None = None

    def fast_backends(self) -> list[Backend]:
        """The backends of `exact_backends`, and FlashAttention 3 in fp8 where it can be used."""
        found = self.exact_backends()
        usable = (self.device or "").startswith("cuda") and self.problem(FLASH_3_FP8) is None
        return [*found, FLASH_3_FP8] if usable else found

    def problem(self, backend: Backend) -> Diagnostic | None:
        """The reason why the component cannot use a backend here; None if it can, or if the facts are unknown."""
        if self.role in encoder_attention.ROLES:  # report a problem on every machine first
            machine = backends.machine_problem(
                BACKENDS[backend.name], self.device
            )  # the packages that transformers calls
            return encoder_attention.encoder_problem(backend.name, self.config, self.class_name, self.dtype) or machine
        masks: Masks = MASKS.get(self.class_name, "sometimes") if self.class_name else "never"
        head = backends.head_size(self.config)
        machine = backends.machine_problem(backend, self.device)
        return machine or backends.model_problem(backend, dtype=self.dtype, head=head, masks=masks)

    def exact_backends(self) -> list[Backend]:
        """The backends among which `auto` chooses: `sdpa`, and on a GPU the others that differ by rounding only."""
        found = [BACKENDS["sdpa"]]
        if (self.device or "").startswith("cuda") and self.role not in encoder_attention.ROLES:
            exact = [backend for backend in map(backends.chosen, BACKENDS) if backend.exact and backend.name != "sdpa"]
            found += [backend for backend in exact if self.problem(backend) is None]
        return found


def note_choice(run: Run, found: Sequence[Backend], dtype: str) -> None:
    """Add the details of a choice among backends: their names and, in a plan, whether a choice is remembered.

    Args:
        run: The run or plan.
        found: The backends.
        dtype: Name of the component's dtype.
    """
    names = [backend.title for backend in found]
    run.detail(attention=names[0] if len(names) == 1 else f"the fastest of {', '.join(names)}")
    if run.planning and len(found) > 1:
        import torch

        here = planned_card() is None and torch.cuda.is_available()
        card = torch.cuda.get_device_name() if here else None
        run.detail(attention_choice=choice_files.planned(dtype, [each.library for each in found], card))
