"""One optimiser step as every algorithm takes it: check, backward, clip, step, schedule."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lwd.errors import ConfigError, NonFiniteLoss


class OptimizerStep:
    """Adam(W) with gradient-norm clipping and an optional cosine schedule over `total_steps`."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        learning_rate: float,
        weight_decay: float = 0.0,
        max_gradient_norm: float = 1.0,
        total_steps: int | None = None,
        warmup_steps: int = 0,
    ) -> None:
        if learning_rate <= 0:
            raise ConfigError(f"learning_rate is {learning_rate}; it must be positive")
        self.parameters = list(parameters)
        self.max_gradient_norm = max_gradient_norm
        self._optimizer = torch.optim.AdamW(self.parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer, lambda step: _learning_rate_factor(step, total_steps, warmup_steps)
        )

    def __call__(self, loss: Tensor, name: str) -> float:
        """Minimise `loss`; return the gradient's norm before clipping.

        Raises:
            NonFiniteLoss: if the loss or its gradient is not finite; no parameter has changed.
        """
        value = loss.item()
        if not math.isfinite(value):
            raise NonFiniteLoss(f"{name} is {value}: lower the learning rate, or look for extreme data")
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = float(nn.utils.clip_grad_norm_(self.parameters, self.max_gradient_norm))
        if not math.isfinite(norm):
            raise NonFiniteLoss(
                f"the gradient norm of {name} is {norm}: lower the learning rate, or look for extreme data"
            )
        self._optimizer.step()
        self._schedule.step()
        return norm

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
