"""LWD: DIVL learns V and Q from the replay, QAM moves the flow policy towards what Q prefers.

The parts are `values.DIVL` and `extraction.QAM`; `LWDConfig` can put one that LWD is compared with in the place of
either, and everything else stays the same. The same objective serves the offline and the online stage; only the
settings differ.
Source: method.md sections 2 and 3, arXiv 2605.00416.
"""

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import TypeVar

import torch
from torch import Tensor, nn

from lwd.algos.config import LWDConfig
from lwd.algos.extraction import FQL, QAM
from lwd.algos.optimization import OptimizerStep, Part, SumOverProcesses
from lwd.algos.protocol import Metrics, State
from lwd.algos.sft import SFT, SFTConfig
from lwd.algos.temperature import QSpread
from lwd.algos.values import DIVL, Expectile, PolicyTD
from lwd.batch import ObservationBatch, TransitionBatch
from lwd.errors import ConfigError
from lwd.models.best_of_n import BestOfN
from lwd.models.critic import ValueCritic
from lwd.models.flow_policy import FlowPolicy
from lwd.ops.flow import memoryless_sde_rollout
from lwd.ops.soft_update import soft_update

_SPREAD_SAMPLES = 8
"""Chunks per state that Q's spread is measured over."""


class LWD:
    """DIVL + QAM with their target network, optimisers and random generator."""

    def __init__(
        self,
        policy: FlowPolicy,
        reference: FlowPolicy,
        critic: ValueCritic,
        config: LWDConfig,
        generator: torch.Generator,
        *,
        target_critic: ValueCritic | None = None,
        sum_over_processes: SumOverProcesses | None = None,
    ) -> None:
        """
        Args:
            generator: on the device of the networks. Processes that train together need different ones.
            sum_over_processes: None where one process trains alone. Otherwise all processes begin with the same
                weights and keep them the same: gradients and Q's spread are means over their batches.
        """
        self.policy = policy
        self._sum = sum_over_processes
        rate = config.reference_learning_rate
        self.imitation = None if rate is None else _imitation(reference, rate, config, generator, sum_over_processes)
        self.reference = reference.requires_grad_(False) if self.imitation is None else self.imitation.averaged_policy
        self.critic = critic
        self.target_critic = (target_critic or deepcopy(critic)).requires_grad_(False)
        self.config = config
        self.generator = generator
        self.updates = 0
        self.spread = QSpread()
        self.averaged_policy = deepcopy(policy).requires_grad_(False)
        policy.requires_grad_(True)
        policy.train_backbone(config.train_backbone)
        self._critic_step = OptimizerStep(
            critic.parameters(),
            learning_rate=config.critic_learning_rate,
            max_gradient_norm=config.max_gradient_norm,
            total_steps=config.total_updates,
            sum_over_processes=sum_over_processes,
        )
        self._actor_step = OptimizerStep(
            (p for p in policy.parameters() if p.requires_grad),
            learning_rate=config.actor_learning_rate,
            weight_decay=config.actor_weight_decay,
            max_gradient_norm=config.max_gradient_norm,
            total_steps=config.total_updates,
            sum_over_processes=sum_over_processes,
        )

        self._values = self._value_learning()
        self._extraction = self._policy_extraction()

    def _value_learning(self) -> DIVL | Expectile | PolicyTD:
        config, atoms = self.config, self.critic.config.num_atoms
        if config.value == "policy_td":
            return PolicyTD(self.critic, self.target_critic, config, self._policy_sample)
        if (config.value == "expectile") != (atoms == 1):
            raise ConfigError(
                f"value is {config.value!r}, num_atoms of the critic {atoms}: an expectile is one number, "
                "a distribution has at least 2 atoms"
            )
        return (DIVL if config.value == "divl" else Expectile)(self.critic, self.target_critic, config)

    def _policy_extraction(self) -> QAM | FQL | None:
        parts = (self.policy, self.reference, self.target_critic, self.config, self.generator)
        if self.config.extraction == "qam":
            return QAM(*parts, self.spread)
        if self.config.extraction == "best_of_n":
            return None
        if self.policy.flow_steps != 1:
            raise ConfigError(
                f"flow_steps of the policy is {self.policy.flow_steps}; with extraction 'fql' it must be 1"
            )
        return FQL(*parts)

    def _policy_sample(self, observation: ObservationBatch) -> Tensor:
        noise = self.policy.chunk_noise(observation.size, self.generator)
        return self.policy.unit_chunk(observation, self.policy.sample(observation, noise))

    def update(self, batch: TransitionBatch) -> Metrics:
        batch = batch.to(self.generator.device)
        metrics = self.update_critic(batch)
        states = batch.observation.first(self.config.actor_batch_size)
        if self.config.extraction == "qam" and self.updates % self.config.spread_every == 0:
            self._measure_spread(states.first(32))
        metrics |= self.update_reference(batch)
        if self.updates >= self.config.critic_warmup_updates and self.updates % self.config.actor_every == 0:
            metrics |= self.update_actor(states)
        self.updates += 1
        return metrics

    def update_critic(self, batch: TransitionBatch) -> Metrics:
        """One step on V and Q, which share a backbone, then the target's soft update."""
        metrics: Metrics = {}
        parts = _parts(batch.split(self.critic.states_at_once), batch.size, self._values.loss, metrics)
        step = self._critic_step(parts, "loss/value + loss/critic")
        soft_update(list(self.target_critic.parameters()), list(self.critic.parameters()), self.config.polyak_rate)
        return {**metrics, "gradient_norm/critic": step.gradient_norm}

    def update_reference(self, batch: TransitionBatch) -> Metrics:
        """One step of the reference towards the replay's good behaviour; none where it is fixed.

        With QAM the policy's weights make the same step. What it has learned is their distance to the reference;
        carried along, that distance need not be learned anew for every reference.
        """
        if self.imitation is None:
            return {}
        before = [parameter.clone() for parameter in self._trained(self.reference)]
        # Also without a chunk of its own a process takes part: the others may have some.
        metrics = self.imitation.update(batch)
        if not metrics:
            return {}
        if self.config.extraction != "qam":
            return {"loss/reference": metrics["loss/flow"]}
        with torch.no_grad():
            steps = [after - old for after, old in zip(self._trained(self.reference), before, strict=True)]
            for network in (self.policy, self.averaged_policy):
                for parameter, step in zip(self._trained(network), steps, strict=True):
                    parameter.add_(step)
        return {"loss/reference": metrics["loss/flow"]}

    def update_actor(self, states: ObservationBatch) -> Metrics:
        """One step on the policy at the given states; none where the critic chooses among the reference's chunks."""
        if self._extraction is None:
            return {}
        metrics: Metrics = {}
        parts = _parts(states.split(self.policy.states_at_once), states.size, self._extraction.loss, metrics)
        step = self._actor_step(parts, "loss/actor")
        soft_update(self._trained(self.averaged_policy), self._trained(self.policy), self.config.policy_polyak_rate)
        return {"loss/actor": step.loss, **metrics, "gradient_norm/actor": step.gradient_norm}

    def _trained(self, network: FlowPolicy) -> list[nn.Parameter]:
        """A network's parameters that the policy's training changes; a frozen backbone may be everybody's own."""
        pairs = zip(network.parameters(), self.policy.parameters(), strict=True)
        return [parameter for parameter, of_policy in pairs if of_policy.requires_grad]

    def deployed_policy(self) -> FlowPolicy | BestOfN:
        """Return the policy to publish; it changes with later updates."""
        if self._extraction is None:
            return BestOfN(self.reference, self.target_critic, self.config.samples)
        return self.averaged_policy

    @torch.no_grad()
    def _measure_spread(self, states: ObservationBatch) -> None:
        repeated = states.repeat(_SPREAD_SAMPLES)
        q = torch.cat([self._q_of_reference(part) for part in repeated.split(self.reference.states_at_once)])
        spread_B = q.view(_SPREAD_SAMPLES, states.size).std(dim=0)
        total = torch.stack([spread_B.sum(), spread_B.new_tensor(states.size)])
        if self._sum is not None:
            # The temperature must be the same in all processes.
            self._sum(total)
        self.spread.add((total[0] / total[1]).item())

    def _q_of_reference(self, states: ObservationBatch) -> Tensor:
        """Mean target critic (B,) of one chunk of the reference at each state."""
        trajectory, _ = memoryless_sde_rollout(
            self.reference.field(self.reference.encode(states)),
            self.reference.chunk_noise(states.size, self.generator),
            self.config.flow_steps,
            generator=self.generator,
        )
        chunk_BHA = self.reference.unit_chunk(states, trajectory[-1]).clamp(-1, 1)
        return torch.stack(self.target_critic.q(self.target_critic.encode(states), chunk_BHA)).mean(dim=0)

    def state(self) -> State:
        return {
            "policy": self.policy.learned_state(),
            "averaged_policy": self.averaged_policy.learned_state(),
            "reference": self.reference.learned_state(),
            "imitation": {} if self.imitation is None else self.imitation.state(),
            "critic": self.critic.state_dict(),
            "target_critic": self.target_critic.state_dict(),
            "critic_optimizer": self._critic_step.state(),
            "actor_optimizer": self._actor_step.state(),
            "generator": self.generator.get_state(),
            "spread": self.spread.value,
            "updates": self.updates,
        }

    def load_state(self, state: State) -> None:
        self.policy.load_learned_state(state["policy"])
        self.averaged_policy.load_learned_state(state["averaged_policy"])
        self.reference.load_learned_state(state["reference"])
        if self.imitation is not None:
            self.imitation.load_state(state["imitation"])
        self.critic.load_state_dict(state["critic"])
        self.target_critic.load_state_dict(state["target_critic"])
        self._critic_step.load_state(state["critic_optimizer"])
        self._actor_step.load_state(state["actor_optimizer"])
        self.generator.set_state(state["generator"])
        self.spread.value = state["spread"]
        self.updates = state["updates"]


_Batch = TypeVar("_Batch", ObservationBatch, TransitionBatch)


def _parts(
    batches: Iterator[_Batch], size: int, loss_of: Callable[[_Batch], tuple[Tensor, Metrics]], metrics: Metrics
) -> Iterator[Part]:
    """Yield the loss of each part of a batch; adds the means of what the parts report to `metrics`."""
    for part in batches:
        loss, found = loss_of(part)
        for name, value in found.items():
            metrics[name] = metrics.get(name, 0.0) + value * (part.size / size)
        yield Part(loss, part.size / size)


def _imitation(
    reference: FlowPolicy,
    learning_rate: float,
    config: LWDConfig,
    generator: torch.Generator,
    sum_over_processes: SumOverProcesses | None,
) -> SFT:
    """The reference as a learner of its own: it imitates what the replay holds of good behaviour."""
    reference.requires_grad_(True)
    # A frozen backbone's features are shared with the policy, so it must stay as it is here, too.
    reference.train_backbone(config.train_backbone)
    settings = SFTConfig(
        learning_rate=learning_rate,
        max_gradient_norm=config.max_gradient_norm,
        polyak_rate=config.reference_polyak_rate,
    )
    return SFT(reference, settings, generator, sum_over_processes=sum_over_processes)
