"""Muon: momentum whose matrix updates are orthogonalised, batched over matrices of one shape.

Far fewer steps than AdamW for the convolutions and the attention and feed-forward matrices of this
model. Equal shapes share one batched Newton-Schulz iteration, so that a step costs few launches.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Push all singular values of a batch [N, R, C] towards 1 (between about 0.7 and 1.2)."""
    x = matrices.to(torch.bfloat16 if matrices.is_cuda else torch.float32)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """For matrices and convolution kernels (flattened to [out, rest]). An update has the root mean
    square 0.2, whatever the shape, so that learning rates of AdamW's usual size fit."""

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 2e-3,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            for p in params:
                if "momentum" not in self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
            grads = [p.grad for p in params]
            buffers = [self.state[p]["momentum"] for p in params]
            torch._foreach_lerp_(buffers, grads, 1 - group["momentum"])
            updates = torch._foreach_lerp(grads, buffers, group["momentum"])  # Nesterov
            by_shape: dict[tuple[int, int], list[int]] = {}
            for i, p in enumerate(params):
                by_shape.setdefault((p.shape[0], p.numel() // p.shape[0]), []).append(i)
            if group["weight_decay"]:
                torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
            for (rows, columns), members in by_shape.items():
                stack = torch.stack([updates[i].reshape(rows, columns) for i in members])
                step = orthogonalise(stack) * (0.2 * max(rows, columns) ** 0.5)
                steps = [step[k].reshape(params[i].shape) for k, i in enumerate(members)]
                torch._foreach_add_([params[i] for i in members], steps, alpha=-group["lr"])
