"""One success and one failure of a run, drawn with what the value network expected along the way.

Episodes come from the run's store (this module and run_data.py are evaluation's only readers of the data
room). A robot that sees pixels recorded its frames; one that sees states is replayed in its simulator.
"""

import io
from collections.abc import Sequence

from PIL import Image

from lwd.data.episode_file import read_episode
from lwd.data.frames import decode_frames
from lwd.data.store import ObjectStore
from lwd.errors import RobotFault
from lwd.evaluation.episode_observations import episode_observations
from lwd.evaluation.fleet_curves import known
from lwd.evaluation.run_data import FleetEpisode, RunData
from lwd.evaluation.svg import Drawing
from lwd.evaluation.value_figures import FRAMES, ValueTrace, frame_steps, value_figure, value_trace
from lwd.models.critic import ValueCritic
from lwd.models.instruction import InstructionEncoder
from lwd.robots.sim import EMBODIMENTS
from lwd.types import ByteArray, Episode, Outcome

FRAME_PIXELS = 160


def episode_drawings(
    run: RunData,
    store: ObjectStore,
    network: ValueCritic,
    instructions: InstructionEncoder,
    *,
    frames: bool = True,
) -> list[Drawing]:
    """Draw the run's last successful and last failed fleet episode of one task.

    Args:
        store: holds the run's episodes.
        network: the learner's value network.
        instructions: embeds the episodes' instructions; a policy's own knows them already.
        frames: whether to draw film strips; rendering takes some seconds per strip in software.
    Returns:
        At most two drawings; fewer where the fleet had no success or no failure.
    """
    drawings = []
    for episode in pick_episodes(run.fleet):
        record = read_episode(store.get(episode.key))
        trace = trace_episode(record, network, instructions)
        kind = "success" if episode.outcome is Outcome.SUCCESS else "failure"
        strip = film_frames(record, frame_steps(record.steps, FRAMES)) if frames else []
        drawings.append(value_figure(f"value-{kind}", trace, strip))
    return drawings


def pick_episodes(fleet: Sequence[FleetEpisode]) -> list[FleetEpisode]:
    """Return the last success and the last failure of the task with the longest episodes that has both.

    Where no task has both, the last success and the last failure of any task.
    """
    outcomes = known(fleet)
    pairs = [_last_of_each([item for item in outcomes if item.task == task]) for task in {e.task for e in outcomes}]
    complete = [pair for pair in pairs if len(pair) == 2]
    if not complete:
        return _last_of_each(outcomes)
    return max(complete, key=lambda pair: (pair[1].steps, pair[1].task))


def _last_of_each(episodes: Sequence[FleetEpisode]) -> list[FleetEpisode]:
    successes = [item for item in episodes if item.outcome is Outcome.SUCCESS]
    failures = [item for item in episodes if item.outcome is not Outcome.SUCCESS]
    return [*successes[-1:], *failures[-1:]]


def trace_episode(episode: Episode, network: ValueCritic, instructions: InstructionEncoder) -> ValueTrace:
    """Evaluate the value network at every state of an episode."""
    return value_trace(network, episode_observations(episode, network.embodiment, instructions), episode)


def film_frames(episode: Episode, steps: Sequence[int]) -> list[ByteArray]:
    """Return (height, width, 3) frames of an episode at the given states.

    Recorded frames are used where there are any; a simulated episode without is replayed. Empty where neither
    is possible: on a real robot without cameras, or where the replay leaves the recorded states (another
    version of the simulator), since those frames would show something that did not happen.
    """
    if episode.images:
        camera, encoded = next(iter(episode.images.items()))
        height, width = _frame_size(encoded[0])
        return list(decode_frames(episode, camera, (height, width))[list(steps)])
    return _replayed(episode, steps) if episode.info.embodiment in EMBODIMENTS else []


def _frame_size(encoded: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(encoded)) as image:
        return image.height, image.width


def _replayed(episode: Episode, steps: Sequence[int]) -> list[ByteArray]:
    from lwd.robots.sim.replay import replay

    frames: list[ByteArray] = []
    try:
        for step, robot in zip(range(max(steps) + 1), replay(episode), strict=False):
            frames += [robot.render(FRAME_PIXELS, FRAME_PIXELS)] * list(steps).count(step)
    except RobotFault:
        return []
    return frames
