"""The online stage on a real store whose log grows: exact continuation, publishing, waiting, ending."""

import hashlib
import json
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from lwd.algos.lwd import LWD, LWDConfig
from lwd.data.arena import ReplayArena
from lwd.data.episode_file import episode_key, write_episode
from lwd.data.log import EpisodeEntry, LogEntry, LogReader, LogWriter
from lwd.data.policies import PolicyPublisher
from lwd.data.reader import ReplayReader
from lwd.data.sampling import BatchSampler, Prefetcher, Stratum, from_sources
from lwd.data.store import DirectoryStore
from lwd.errors import NonFiniteLoss, ResumeError
from lwd.learner.checkpoint import CheckpointStore
from lwd.learner.limiter import UpdateToDataLimiter
from lwd.learner.online import OnlineLimits, OnlineStage, SnapshotJournal
from lwd.learner.stage import StageFiles
from lwd.models.checkpoint import policy_bytes, value_bytes
from lwd.models.critic import CriticConfig, ValueCritic
from lwd.models.instruction import EMBEDDING_SIZE
from lwd.models.normalization import StateStatistics
from lwd.models.vla import SmallVLA, VLAConfig
from lwd.types import Embodiment, Episode, EpisodeInfo, Outcome, Source, TokenSpec

EMBODIMENT = Embodiment(
    name="toy",
    control_hz=10.0,
    state_tokens=(TokenSpec(name="proprio", size=4), TokenSpec(name="object", size=3)),
    action_low=(-1.0, -2.0),
    action_high=(1.0, 4.0),
)
STEPS = 6
FAR_AHEAD = UpdateToDataLimiter(updates_per_step=100.0)


class Fleet:
    """Commits episodes to a store's log, one version each."""

    def __init__(self, store: DirectoryStore) -> None:
        self.store = store
        self.count = 0

    def commit(self, source: Source = Source.FLEET) -> None:
        name = f"episode-{self.count:03d}"
        self.count += 1
        rng = np.random.default_rng(self.count)
        info = EpisodeInfo(
            episode_id=name, robot_id="r1", embodiment=EMBODIMENT.name, task=f"task-{self.count % 2}",
            instruction="go", source=source, outcome=Outcome.SUCCESS if self.count % 3 else Outcome.TIME_LIMIT,
            policy_version=0, sub_step_scores=(1.0,), control_hz=10.0, seed=self.count, world="nominal",
            started_at_s=1.0, software_version="0",
        )  # fmt: skip
        episode = Episode(
            info=info,
            states_TS=rng.normal(size=(STEPS + 1, EMBODIMENT.state_size)).astype(np.float32),
            actions_TA=rng.uniform(-1, 1, (STEPS, 2)).astype(np.float32),
            controllers_T=np.zeros(STEPS, np.uint8),
        )
        data, key = write_episode(episode), episode_key("r1", name)
        self.store.create(key, data)
        entry = EpisodeEntry(
            episode_id=name, key=key, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data), robot_id="r1",
            embodiment=EMBODIMENT.name, task=info.task, instruction="go", source=source, outcome=info.outcome,
            world="nominal", policy_version=0, steps=STEPS, human_steps=0, interventions=0, sub_step_scores=(1.0,),
            control_hz=10.0, started_at_s=1.0, uploaded_at_s=2.0,
        )  # fmt: skip
        reader = LogReader(self.store)
        reader.poll()
        version = LogEntry(version=reader.version + 1, epoch=1, batch_id=name, committed_at_s=3.0, added=(entry,))
        assert LogWriter(self.store, reader).commit(version)


@dataclass
class Site:
    """One run: its store, its fleet, and learners that may be killed and started again."""

    path: Path
    fleet: Fleet
    build: object
    published: list[tuple[int, int, str]] = field(default_factory=list)
    """(update, snapshot, hash of the policy) of every published policy."""

    def learner(self, *, limiter=FAR_AHEAD, limits: OnlineLimits | None = None, learning_rate=1e-3) -> OnlineStage:
        algorithm = self.build(learning_rate)
        arena = ReplayArena(
            EMBODIMENT, horizon=3, gamma=0.9, embed=lambda text: np.full(EMBEDDING_SIZE, 0.5, np.float32)
        )
        strata = [
            Stratum(episodes=from_sources(Source.DEMONSTRATION)),
            Stratum(episodes=from_sources(Source.FLEET)),
        ]
        sampler = BatchSampler(arena, strata, batch_size=8, seed=7, instruction_noise=0.1)
        publisher = PolicyPublisher(self.fleet.store)

        def publish(data: bytes, update: int, snapshot: int) -> int:
            self.published.append((update, snapshot, hashlib.sha256(data).hexdigest()))
            return publisher.publish(data, update=update, snapshot=snapshot).version

        return OnlineStage(
            algorithm,
            Prefetcher(sampler),
            ReplayReader(self.fleet.store, arena),
            CheckpointStore(self.path / "checkpoints"),
            StageFiles(
                policy=lambda: policy_bytes(algorithm.policy),
                value=lambda: value_bytes(algorithm.critic),
                config={"learning_rate": learning_rate},
            ),
            publish,
            limiter=limiter,
            limits=limits or OnlineLimits(publish_every=10, adopt_every=10),
        )


@pytest.fixture(scope="module")
def build():
    """Return what builds the learner's algorithm, always from the same weights."""
    torch.manual_seed(0)
    statistics = StateStatistics(mean=(0.1,) * 7, std=(1.5,) * 7)
    sizes = VLAConfig(horizon=3, token_width=8, context_size=16, expert_width=32, expert_depth=2)
    policy = SmallVLA(EMBODIMENT, sizes, statistics)
    critic_sizes = CriticConfig(token_width=8, readout_size=16, action_width=8, pooling_heads=2, width=32)
    critic = ValueCritic(EMBODIMENT, critic_sizes, statistics, horizon=3)

    def make(learning_rate: float) -> LWD:
        config = LWDConfig(
            temperature="auto", spread_every=7, actor_every=2, actor_learning_rate=learning_rate, flow_steps=4
        )
        return LWD(deepcopy(policy), deepcopy(policy), deepcopy(critic), config, torch.Generator().manual_seed(3))

    return make


@pytest.fixture(scope="module")
def site(build, tmp_path_factory):
    def make(name: str) -> Site:
        path = tmp_path_factory.mktemp(name)
        made = Site(path, Fleet(DirectoryStore(path / "store")), build)
        made.fleet.commit(Source.DEMONSTRATION)
        made.fleet.commit()
        return made

    return make


def advance(stage: OnlineStage, results: Iterator, to: int, site: Site, commits: dict[int, int]) -> None:
    """Train up to an update; after update u the fleet commits `commits[u]` episodes."""
    while stage.progress.update < to:
        assert next(results) is not None
        for _ in range(commits.get(stage.progress.update, 0)):
            site.fleet.commit()


def kill(stage: OnlineStage, results: Iterator) -> None:
    """What kill -9 leaves behind: nothing is saved, nothing is closed in order."""
    stage.save = lambda: pytest.fail("a killed learner saves nothing")  # type: ignore[method-assign]
    results.close()
    stage.reader.close()
    stage.batches.close()


def finish(stage: OnlineStage, results: Iterator) -> dict[str, bytes]:
    stage.save()
    found = stage.checkpoints.latest()
    kill(stage, results)
    assert found is not None
    names = ("state.safetensors", "policy.safetensors", "value.safetensors")
    return {name: (found.directory / name).read_bytes() for name in names}


COMMITS = {4: 1, 11: 2, 23: 1, 27: 1, 47: 2}
"""Update -> episodes that are committed after it. The learner looks at the log every ten updates."""
END = 52


@pytest.fixture(scope="module")
def uninterrupted(site):
    whole = site("whole")
    stage = whole.learner()
    results = stage.run()
    advance(stage, results, END, whole, COMMITS)
    return finish(stage, results), whole.published


@pytest.mark.parametrize(
    ("saved", "killed", "while_dead"),
    [
        (12, 25, [27]),
        (20, 25, []),
        # The look at 40 found nothing; repeated, it must not find what came later.
        (40, 45, [47]),
        (20, 20, []),
        (None, 25, [27]),
        (None, 3, []),
    ],
)
def test_a_killed_learner_ends_in_the_same_bytes(site, uninterrupted, saved, killed, while_dead):
    """Also where the log has grown since: repeated updates see what they saw at first, and no more."""
    broken = site("broken")
    stage = broken.learner()
    results = stage.run()
    if saved is not None:
        advance(stage, results, saved, broken, COMMITS)
        stage.save()
    advance(stage, results, killed, broken, COMMITS)
    kill(stage, results)
    before_kill = list(broken.published)

    for update in while_dead:
        for _ in range(COMMITS[update]):
            broken.fleet.commit()
    stage = broken.learner()
    assert stage.progress.update == (saved or 0)
    results = stage.run()
    later = {update: count for update, count in COMMITS.items() if update > killed and update not in while_dead}
    advance(stage, results, END, broken, later)

    expected, published = uninterrupted
    assert finish(stage, results) == expected
    # Policies that were published before the kill come out again, bit for bit.
    assert set(before_kill) <= set(broken.published) == set(published)


def test_the_bytes_depend_on_when_the_replay_grew(site, uninterrupted):
    """Guards the test above: with other data at one update, the result is another."""
    other = site("other")
    stage = other.learner()
    results = stage.run()
    advance(stage, results, END, other, COMMITS | {4: 0, 11: 3})
    assert finish(stage, results) != uninterrupted[0]


def test_a_policy_is_published_at_the_start_and_every_so_many_updates(site):
    run = site("run")
    stage = run.learner(limits=OnlineLimits(publish_every=50, adopt_every=25))
    results = stage.run(stop=lambda: stage.progress.update == 110)
    assert sum(result is not None for result in results) == 110
    assert [update for update, _, _ in run.published] == [0, 50, 100, 110]
    assert stage.progress.policy_version == 3
    found = stage.checkpoints.latest()
    assert found is not None
    assert found.progress == stage.progress
    assert not found.progress.finished


def test_nothing_is_published_twice_at_one_update(site):
    run = site("run")
    stage = run.learner(limits=OnlineLimits(publish_every=10))
    assert list(stage.run(stop=lambda: stage.progress.update == 20))
    assert [update for update, _, _ in run.published] == [0, 10, 20]


def test_the_limiter_holds_the_learner_until_there_is_data(site):
    run = site("run")
    limiter = UpdateToDataLimiter(updates_per_step=0.5, max_lead_steps=1000)
    stage = run.learner(limiter=limiter)
    results = stage.run()
    assert [next(results) is None for _ in range(5)] == [False] * 3 + [True] * 2  # 6 fleet steps
    run.fleet.commit(Source.ROLLOUT)  # not the fleet's: allows nothing
    assert next(results) is None
    run.fleet.commit()
    assert [next(results) is None for _ in range(4)] == [False] * 3 + [True]
    assert stage.progress.snapshot == 4
    assert stage.blocked_s > 0
    kill(stage, results)


def test_a_waiting_learner_does_not_fill_its_journal(site):
    run = site("run")
    stage = run.learner(limiter=UpdateToDataLimiter(updates_per_step=0.001, max_lead_steps=1000))
    results = stage.run()
    assert [next(results) for _ in range(5)] == [None] * 5
    assert len((run.path / "checkpoints" / "snapshots.jsonl").read_text().splitlines()) == 1
    kill(stage, results)


def test_the_stage_ends_with_its_fleet_steps_and_the_updates_they_allow(site):
    run = site("run")
    limiter = UpdateToDataLimiter(updates_per_step=0.5, max_lead_steps=1000)
    limits = OnlineLimits(max_env_steps=3 * STEPS)
    stage = run.learner(limiter=limiter, limits=limits)
    updates = 0
    for result in stage.run():
        updates += result is not None
        if result is None:  # the learner waits: the fleet goes on
            run.fleet.commit()
    assert updates == 9
    assert stage.progress.finished
    found = stage.checkpoints.latest()
    assert found is not None
    assert found.progress.finished

    again = run.learner(limiter=limiter, limits=limits)
    published = len(run.published)
    assert list(again.run()) == []
    assert len(run.published) == published
    # More steps continue it.
    longer = run.learner(limiter=limiter, limits=OnlineLimits(max_env_steps=4 * STEPS))
    run.fleet.commit()
    assert [r.update for r in longer.run() if r is not None] == [10, 11, 12]


def test_a_store_that_is_behind_the_checkpoint_is_refused(site):
    run = site("run")
    run.fleet.commit()
    stage = run.learner()
    results = stage.run()
    advance(stage, results, 3, run, {})
    finish(stage, results)
    other = site("other")
    other.path = run.path  # the checkpoints of one run with the store of another
    with pytest.raises(ResumeError, match=r"trained on snapshot 3, the store's log ends at 2"):
        other.learner()


def test_a_store_that_is_behind_the_journal_is_refused(site):
    run, other = site("run"), site("other")
    stage = run.learner()
    results = stage.run()
    advance(stage, results, 5, run, {3: 1})
    stage.save()
    advance(stage, results, 12, run, {})
    kill(stage, results)
    other.path = run.path
    stage = other.learner()
    results = stage.run()
    with pytest.raises(ResumeError, match=r"trained on snapshot 3, the store's log ends at 2"):
        advance(stage, results, 12, other, {})


def test_other_settings_are_refused(site):
    run = site("run")
    stage = run.learner()
    results = stage.run()
    advance(stage, results, 2, run, {})
    finish(stage, results)
    with pytest.raises(ResumeError, match=r"learning_rate = 0\.001, now it is 0\.01"):
        run.learner(learning_rate=0.01)


def test_a_diverged_learner_names_its_last_good_checkpoint(site):
    run = site("run")
    stage = run.learner()
    results = stage.run()
    advance(stage, results, 4, run, {})
    stage.save()
    advance(stage, results, 6, run, {})
    with torch.no_grad():
        stage.algorithm.critic.q_heads[0][-1].bias.fill_(float("nan"))
    with pytest.raises(NonFiniteLoss, match=r"loss/critic is nan.*last good checkpoint is .*update-000000004"):
        next(results)
    found = stage.checkpoints.latest()
    assert found is not None
    assert found.progress.update == 4
    stage.reader.close()
    stage.batches.close()


def test_a_journal_whose_last_line_was_cut(tmp_path):
    path = tmp_path / "snapshots.jsonl"
    journal = SnapshotJournal(path)
    journal.add(0, 1)
    journal.add(10, 4)
    with path.open("a") as file:
        file.write('{"update": 20, "snap')
    again = SnapshotJournal(path)
    assert again.first == 1
    assert again.after(0, 1) == [(0, 1), (10, 4)]
    assert again.after(10, 4) == [(10, 4)]
    assert again.after(11, 4) == []
    again.add(20, 5)
    assert [json.loads(line)["snapshot"] for line in path.read_text().splitlines()] == [1, 4, 5]


def test_a_damaged_journal_is_named(tmp_path):
    path = tmp_path / "snapshots.jsonl"
    path.write_text('{"update": 0, "snapshot": 1}\n\0\0\0\0\n{"update": 20, "snapshot": 2}\n')
    with pytest.raises(ResumeError, match=r"snapshots\.jsonl is damaged .* remove it"):
        SnapshotJournal(path)
