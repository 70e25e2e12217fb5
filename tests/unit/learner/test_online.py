"""The online stage on a real store whose log grows: exact continuation, publishing, waiting, ending."""

import json
from collections.abc import Iterator

import pytest
import torch

from lwd.data.store import DirectoryStore
from lwd.errors import NonFiniteLoss, ResumeError
from lwd.learner.limiter import UpdateToDataLimiter
from lwd.learner.online import OnlineLimits, OnlineStage, SnapshotJournal
from lwd.types import Source

from ...toy_learner import STEPS, Fleet, Site


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    def make(name: str) -> Site:
        path = tmp_path_factory.mktemp(name)
        made = Site(path, Fleet(DirectoryStore(path / "store")))
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
