"""What the log says of an episode."""

import numpy as np

from lwd.data.episode_file import episode_key
from lwd.data.log import EpisodeEntry
from lwd.types import Controller, Episode


def describe(episode: Episode, *, data_bytes: int, sha256: str, uploaded_at_s: float) -> EpisodeEntry:
    """Return the log's description of an episode."""
    info = episode.info
    # Without the gaps: a person who held the robot and went on took over once.
    human_T = episode.controllers_T[episode.controllers_T != Controller.NOBODY] == Controller.HUMAN
    take_overs = int(human_T[0]) + int(np.count_nonzero(human_T[1:] & ~human_T[:-1]))
    return EpisodeEntry(
        episode_id=info.episode_id,
        key=episode_key(info.robot_id, info.episode_id),
        sha256=sha256,
        bytes=data_bytes,
        robot_id=info.robot_id,
        embodiment=info.embodiment,
        task=info.task,
        instruction=info.instruction,
        source=info.source,
        outcome=info.outcome,
        world=info.world,
        policy_version=info.policy_version,
        steps=episode.acted_steps,
        human_steps=int(human_T.sum()),
        interventions=take_overs,
        sub_step_scores=info.sub_step_scores,
        control_hz=info.control_hz,
        started_at_s=info.started_at_s,
        uploaded_at_s=uploaded_at_s,
    )
