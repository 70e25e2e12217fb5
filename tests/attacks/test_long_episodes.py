"""Valid episodes that a robot cannot have recorded: small files with more steps than their task has time for."""

import pytest

from lwd.cli import coordinator as verb
from lwd.data.episode_file import episode_key, write_episode
from lwd.data.log import LogReader
from lwd.data.store import DirectoryStore
from lwd.data.validation import EpisodeLimits
from lwd.errors import ConfigError
from lwd.fleet.coordinator import Coordinator
from lwd.fleet.embodiment import built_in_time_limits
from lwd.fleet.judging import Candidate
from lwd.robots.sim import SIMULATED, TASKS
from lwd.types import Outcome, Source

from ..unit.data.episodes import EMBODIMENT, episode

KNOWN = EpisodeLimits(embodiment=EMBODIMENT, time_limits={"reach": 60, "push": 30})
UNKNOWN = EpisodeLimits(embodiment=EMBODIMENT, max_fleet_steps=2000)


def put(store, number: int, *, steps: int, **info) -> Candidate:
    made = episode(number, steps=steps, **info)
    # All alike: what a file of kilobytes can hold.
    made.states_TS[:] = 0
    made.actions_TA[:] = 0
    made.controllers_T[:] = 0
    data = write_episode(made)
    key = episode_key(made.info.robot_id, made.info.episode_id)
    store.create(key, data)
    return Candidate(key=key, uploaded_at_s=1.0)


@pytest.mark.parametrize(
    ("limits", "steps", "task", "reason"),
    [
        (KNOWN, 200_000, "reach", "steps is 200000 in a fleet episode; the time limit of task 'reach' is 60"),
        (KNOWN, 61, "reach", "steps is 61 in a fleet episode"),
        (KNOWN, 31, "push", "the time limit of task 'push' is 30"),
        (KNOWN, 10, "dance", "task is 'dance' in a fleet episode; the run's are push, reach"),
        (UNKNOWN, 200_000, "dance", "steps is 200000 in a fleet episode; max_fleet_steps is 2000"),
    ],
)
def test_long_fleet_episode_is_quarantined_and_counts_no_step(tmp_path, measured, limits, steps, task, reason):
    store = DirectoryStore(tmp_path)
    candidates = [put(store, 1, steps=20), put(store, 2, steps=steps, task=task), put(store, 3, steps=30, task="push")]
    size = len(store.get(candidates[1].key))
    coordinator = Coordinator(store, limits)
    result = coordinator.process(candidates)
    assert [entry.episode_id for entry in result.committed] == ["episode-1", "episode-3"]
    ((key, said),) = result.quarantined
    assert key == candidates[1].key
    assert reason in said
    reader = LogReader(store)
    reader.poll()
    measured(f"valid episode of {steps} steps in {size} bytes", f"{reader.fleet_steps} fleet steps", "50")
    assert reader.fleet_steps == 50


@pytest.mark.parametrize("source", [Source.ROLLOUT, Source.DEMONSTRATION, Source.PLAY])
def test_long_offline_recording_is_accepted_as_before(tmp_path, source):
    store = DirectoryStore(tmp_path)
    outcome = {} if source is not Source.PLAY else {"outcome": Outcome.FAILURE}
    found = put(store, 1, steps=3000, source=source, task="anything", policy_version=-1, **outcome)
    for limits in (KNOWN, UNKNOWN):
        result = Coordinator(DirectoryStore(tmp_path), limits).process([found])
        assert result.quarantined == []
    assert len(Coordinator(store, KNOWN).reader) == 1


def test_coordinator_verb_knows_the_tasks_of_built_in_robots_and_takes_those_of_others():
    for embodiment in SIMULATED.values():
        assert built_in_time_limits(embodiment) == {task.name: task.time_limit for task in TASKS.values()}
    assert built_in_time_limits(EMBODIMENT) is None
    assert verb._steps_by_task(("pick=300", "put=in=box=20")) == {"pick": 300, "put=in=box": 20}
    for wrong in ("pick", "=3", "pick=", "pick=0", "pick=-1", "pick=1.5"):
        with pytest.raises(ConfigError, match="is no TASK=STEPS"):
            verb._steps_by_task((wrong,))
