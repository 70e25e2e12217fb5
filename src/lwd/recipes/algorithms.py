"""The algorithm of a stage from its recipe: built for the offline stage, or continued online from the stage before."""

import dataclasses
from copy import deepcopy
from typing import Any

import torch

from lwd.algos.config import LWDConfig
from lwd.algos.lwd import LWD
from lwd.algos.optimization import SumOverProcesses
from lwd.algos.recap import Recap, RecapConfig
from lwd.algos.sft import SFT, SFTConfig
from lwd.errors import CheckpointError, ConfigError
from lwd.learner.stage import StageFiles
from lwd.models.advantage import AdvantagePolicy
from lwd.models.checkpoint import load_policy, load_value, load_vla, policy_bytes, value_bytes
from lwd.models.critic import ValueCritic
from lwd.models.flow_policy import FlowPolicy
from lwd.models.lerobot.vla import LeRobotVLA
from lwd.models.vla import SmallVLA
from lwd.recipes.run_directory import RunDirectory
from lwd.recipes.scene import StageRecipe


def build_lwd(
    policy: FlowPolicy,
    reference: FlowPolicy,
    critic: ValueCritic,
    recipe: StageRecipe,
    *,
    seed: int,
    device: str,
    target_critic: ValueCritic | None = None,
    sum_over_processes: SumOverProcesses | None = None,
) -> LWD:
    """Build LWD, or a variant of it, for a stage on a device, with the stage's precision.

    Raises:
        ConfigError: if the stage's algorithm is another one.
    """
    settings = recipe.algorithm
    if not isinstance(settings, LWDConfig):
        raise ConfigError(f"algorithm is {type(settings).__name__}; this stage trains with LWDConfig")
    if settings.extraction == "fql":
        policy = in_one_step(policy)
    algorithm = LWD(
        policy.to(device),
        reference.to(device),
        critic.to(device),
        settings,
        torch.Generator(device).manual_seed(seed),
        target_critic=None if target_critic is None else target_critic.to(device),
        sum_over_processes=sum_over_processes,
    )
    for network in (algorithm.policy, algorithm.reference, algorithm.critic, algorithm.target_critic):
        network.precision = recipe.precision
    return algorithm


def build_recap(
    policy: AdvantagePolicy, critic: ValueCritic, recipe: StageRecipe, settings: RecapConfig, *, seed: int, device: str
) -> Recap:
    """Build RECAP for a stage on a device, with the stage's precision."""
    algorithm = Recap(policy.to(device), critic.to(device), settings, torch.Generator(device).manual_seed(seed))
    algorithm.policy.policy.precision = algorithm.critic.precision = recipe.precision
    return algorithm


def in_one_step(policy: FlowPolicy) -> SmallVLA:
    """Return a policy with the same weights that goes from noise to a chunk in one step.

    Raises:
        ConfigError: if it is a pretrained VLA.
    """
    small = small_policy(policy, "fql")
    changed = SmallVLA(
        small.embodiment,
        dataclasses.replace(small.config, flow_steps=1),
        small.normalizer.statistics,
        small.instructions,
    )
    changed.load_state_dict(policy.state_dict())
    return changed


def small_policy(policy: FlowPolicy, method: str) -> SmallVLA:
    """Return a policy that a method can change inside.

    Raises:
        ConfigError: if it is a pretrained VLA.
    """
    if not isinstance(policy, SmallVLA):
        raise ConfigError(
            f"method {method!r} changes the inside of the small policy; with {type(policy).__name__} use lwd, "
            "constant_level, expectile, qam or hg_dagger"
        )
    return policy


def continue_online(
    run: RunDirectory,
    recipe: StageRecipe,
    *,
    seed: int,
    device: str,
    sum_over_processes: SumOverProcesses | None = None,
) -> LWD | Recap | SFT:
    """Build the online stage's algorithm from the stage before it: the offline one, its reference included, or SFT.

    Args:
        seed: of the noise; another one in every process of a group.
        sum_over_processes: of a group that trains as one.
    Raises:
        CheckpointError: if the stage before is not finished.
        ConfigError: if the algorithm cannot be trained by a group.
    """
    settings = recipe.algorithm
    if isinstance(settings, SFTConfig):
        policy = load_vla(run.finished("sft", "sft").policy_path).to(device)
        generator = torch.Generator(device).manual_seed(seed)
        return SFT(policy, settings, generator, sum_over_processes=sum_over_processes)
    offline = run.finished("offline", "offline")
    critic = load_value(offline.value_path)
    if isinstance(settings, RecapConfig):
        if sum_over_processes is not None:
            raise ConfigError(
                "RECAP measures its thresholds in one process; start one learner process instead of several"
            )
        found = load_policy(offline.policy_path)
        if not isinstance(found, AdvantagePolicy):
            raise CheckpointError(
                f"the offline stage of {run.path} is not RECAP's: use the method that it was run with"
            )
        return build_recap(found, critic, recipe, settings, seed=seed, device=device)
    state = offline.state()
    policy = load_vla(offline.policy_path)
    if isinstance(policy, LeRobotVLA):
        # Where the backbone has learned, the old reference's expert would read prefixes that it never saw: then the
        # policy that begins the stage is its reference.
        learned = policy.config.backbone_trained or policy.config.lora_rank > 0
        # A copy shares a frozen backbone; a second one from the file would be as large again.
        reference: FlowPolicy = deepcopy(policy if settings.train_backbone else policy.frozen())
    else:
        learned, reference = False, load_vla(run.finished("sft", "sft").policy_path)
    if not learned:
        reference.load_learned_state(state["reference"])
    target_critic = load_value(offline.value_path)
    target_critic.load_state_dict(state["target_critic"])
    # The policy meets new instructions as they come; the critics must know the same.
    critic.instructions = target_critic.instructions = policy.instructions
    algorithm = build_lwd(
        policy,
        reference,
        critic,
        recipe,
        seed=seed,
        device=device,
        target_critic=target_critic,
        sum_over_processes=sum_over_processes,
    )
    algorithm.spread.value = state["spread"]
    return algorithm


def stage_files(algorithm: LWD | Recap | SFT, config: dict[str, Any]) -> StageFiles:
    """What an algorithm's checkpoints hold: its policy, and its value if it has one."""
    return StageFiles(
        policy=lambda: policy_bytes(algorithm.deployed_policy()),
        value=None if isinstance(algorithm, SFT) else lambda: value_bytes(algorithm.critic),
        config=config,
    )
