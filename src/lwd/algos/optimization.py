"""One optimiser step as every algorithm takes it: backward, mean over processes, check, clip, step, schedule."""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lwd.errors import ConfigError, NonFiniteLoss

SumOverProcesses = Callable[[Tensor], None]
"""Adds a tensor up, in place, over all processes that compute one update together. Every process must call it equally
often, in the same order and with the same shapes, and has the same bytes afterwards."""


class Step(NamedTuple):
    """What a step did, alike in all processes that train together."""

    loss: float
    """Mean over the processes' batches."""
    gradient_norm: float
    """Before clipping."""
    weight: float
    """Sum of the processes' weights; 0: there was nothing to learn from, and nothing has changed."""


class Part(NamedTuple):
    """A part of a batch: its mean loss, and its share of the batch's."""

    loss: Tensor
    share: float


class OptimizerStep:
    """Adam(W) with gradient-norm clipping and an optional cosine schedule over `total_steps`.

    Processes that train together each give their own batch's mean loss; the step is the one that a single process
    would take on all their batches in one, up to rounding.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        learning_rate: float,
        weight_decay: float = 0.0,
        max_gradient_norm: float = 1.0,
        total_steps: int | None = None,
        warmup_steps: int = 0,
        sum_over_processes: SumOverProcesses | None = None,
    ) -> None:
        if learning_rate <= 0:
            raise ConfigError(f"learning_rate is {learning_rate}; it must be positive")
        self.parameters = list(parameters)
        self.max_gradient_norm = max_gradient_norm
        self._sum = sum_over_processes
        self._optimizer = torch.optim.AdamW(self.parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer, lambda step: _learning_rate_factor(step, total_steps, warmup_steps)
        )

    def __call__(self, loss: Tensor | Iterable[Part], name: str, *, weight: float = 1.0) -> Step:
        """Minimise `loss`.

        Args:
            loss: mean over this process's batch; or its parts, where the whole's activations are too large for the
                memory: each is differentiated before the next one is computed.
            weight: what the mean counts beside the other processes' (how many terms it is of). With 0 the loss is not
                looked at: a process without anything to learn from still takes the others' step.
        Raises:
            NonFiniteLoss: if the loss or its gradient is not finite in any process; no parameter has changed.
        """
        self._optimizer.zero_grad(set_to_none=True)
        own = 0.0
        if weight:
            for part, share in [Part(loss, 1.0)] if isinstance(loss, Tensor) else loss:
                own += share * part.item()
                # Before the check: a process that stopped here would let the others wait for its gradient.
                (share * part).backward()
        value, total = (own, weight) if self._sum is None else self._mean(self._sum, own, weight)
        if not total:
            return Step(loss=0.0, gradient_norm=0.0, weight=0.0)
        if not math.isfinite(value):
            where = f"{name} is {own}" if not math.isfinite(own) else f"{name} of another process is not finite"
            raise NonFiniteLoss(f"{where}: lower the learning rate, or look for extreme data")
        norm = float(nn.utils.clip_grad_norm_(self.parameters, self.max_gradient_norm))
        if not math.isfinite(norm):
            raise NonFiniteLoss(
                f"the gradient norm of {name} is {norm}: lower the learning rate, or look for extreme data"
            )
        self._optimizer.step()
        self._schedule.step()
        return Step(loss=value, gradient_norm=norm, weight=total)

    def _mean(self, sum_over_processes: SumOverProcesses, loss: float, weight: float) -> tuple[float, float]:
        """Make the gradients the weighted mean over all processes; return the mean loss and the sum of weights.

        One flat tensor travels: a collective costs more by its number than by its size.
        """
        like = self.parameters[0]
        # A parameter without a gradient in every process keeps none, so that Adam leaves it alone as it would alone.
        present = [parameter.grad is not None for parameter in self.parameters]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        head = torch.tensor([weight, loss * weight, *present], dtype=like.dtype, device=like.device)
        flat = torch.cat([head, *(gradient.flatten() * weight for gradient in gradients)])
        sum_over_processes(flat)
        total = flat[0].item()
        if not total:
            return 0.0, 0.0
        head, body = flat[: head.numel()], flat[head.numel() :] / total
        parts = torch.split(body, [parameter.numel() for parameter in self.parameters])
        for parameter, part, anywhere in zip(self.parameters, parts, head[2:].tolist(), strict=True):
            parameter.grad = part.view_as(parameter) if anywhere else None
        return head[1].item() / total, total

    def state(self) -> dict[str, Any]:
        """Moments, step counts and the schedule's position."""
        state = self._optimizer.state_dict()
        return {
            "moments": {str(key): value for key, value in state["state"].items()},
            "schedule_step": self._schedule.last_epoch,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned."""
        current = self._optimizer.state_dict()
        current["state"] = {int(key): value for key, value in state["moments"].items()}
        self._optimizer.load_state_dict(current)
        self._schedule.last_epoch = state["schedule_step"]
        for group, base_rate, factor in zip(
            self._optimizer.param_groups, self._schedule.base_lrs, self._schedule.lr_lambdas, strict=True
        ):
            group["lr"] = base_rate * factor(state["schedule_step"])


def _learning_rate_factor(step: int, total_steps: int | None, warmup_steps: int) -> float:
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if total_steps is None:
        return 1.0
    progress = min(step / total_steps, 1.0)
    return 0.5 * (1 + math.cos(math.pi * progress))
