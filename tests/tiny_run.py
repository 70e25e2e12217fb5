"""A real run that is small in everything: a dozen scene episodes, networks of a few thousand weights, ten updates."""

import functools
import shutil
from dataclasses import replace
from pathlib import Path

from lwd.algos.config import LWDConfig
from lwd.algos.sft import SFTConfig
from lwd.data.store import open_store
from lwd.data.validation import EpisodeLimits
from lwd.fleet.ingest import ingest
from lwd.learner.limiter import UpdateToDataLimiter
from lwd.models.critic import CriticConfig
from lwd.models.vla import VLAConfig
from lwd.recipes.offline_data import OfflineDataConfig, generate_offline_data
from lwd.recipes.run_directory import RunDirectory
from lwd.recipes.scene import FleetRecipe, Recipe, SFTRecipe, StageRecipe
from lwd.types import Episode, Source

DATA = OfflineDataConfig(
    tasks=("press_button", "close_window"),
    demonstrations_per_task=1,
    rollout_successes_per_task=1,
    rollout_failures_per_task=1,
    play_per_task=1,
)
_LWD = LWDConfig(
    temperature="auto",
    spread_every=4,
    actor_every=2,
    actor_batch_size=8,
    flow_steps=4,
    reference_learning_rate=1e-3,
    policy_polyak_rate=0.1,
)
_STAGE = StageRecipe(
    algorithm=_LWD,
    critic=CriticConfig(token_width=4, readout_size=16, action_width=8, pooling_heads=2, width=16, num_atoms=21),
    updates=10,
    batch_size=16,
    n_step_long=3,
)
RECIPE = Recipe(
    data=DATA,
    sft=SFTRecipe(
        policy=VLAConfig(horizon=5, token_width=4, context_size=16, expert_width=16, expert_depth=1, flow_steps=4),
        algorithm=SFTConfig(total_updates=12),
        updates=12,
        batch_size=16,
    ),
    offline=_STAGE,
    online=replace(_STAGE, updates=0),
    fleet=FleetRecipe(robots=2, env_steps=60, limiter=UpdateToDataLimiter(updates_per_step=0.2)),
    imitation=SFTConfig(learning_rate=1e-4),
    imitation_updates=6,
    evaluation_episodes=1,
)


@functools.cache
def make_data(config: OfflineDataConfig = DATA) -> list[Episode]:
    """The run's offline episodes, made by the scripted expert in this process."""
    episodes: list[Episode] = []
    generate_offline_data(config, episodes.append, workers=0)
    return episodes


def commit(run: RunDirectory, episodes: list[Episode]) -> None:
    result = ingest(run.store(), iter(episodes), EpisodeLimits())
    assert not result.quarantined


def as_fleet(episode: Episode) -> Episode:
    """The same episode, as if policy 0 had acted it on a robot of the fleet."""
    info = replace(
        episode.info, episode_id=f"fleet-{episode.info.episode_id}", source=Source.FLEET, policy_version=0, robot_id="r"
    )
    return replace(episode, info=info)


def copy_of(run: RunDirectory, target: Path) -> RunDirectory:
    """A run with the same store and checkpoints, of its own."""
    shutil.copytree(run.path, target)
    open_store(target / "store")
    return RunDirectory(target)
