"""The trial of a version in a process of its own: what passes, what does not, and what the process gets to see."""

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lwd.data.store import DirectoryStore
from lwd.errors import CheckpointError, ServiceError, StoreError
from lwd.fleet.policy_trial import ProcessTrial, TrialLimits

from ...hostile.policies import bad_acts, best_of, good_policy, hanging, rewritten
from ...point_mass import EMBODIMENT


@pytest.fixture(scope="module")
def trial(tmp_path_factory) -> Iterator[ProcessTrial]:
    """With little memory and time to spare, so that few of both show what happens beyond them."""
    directory = tmp_path_factory.mktemp("trial")
    limits = TrialLimits(seconds=8.0, act_seconds=4.0, spare_bytes=192 * 2**20)
    os.environ["AWS_SECRET_ACCESS_KEY"] = "secret"
    os.environ["LWD_NATS_TOKEN"] = "secret"
    try:
        trial = ProcessTrial(DirectoryStore(directory), directory, [EMBODIMENT] * 3, instruction="go", limits=limits)
    finally:
        del os.environ["AWS_SECRET_ACCESS_KEY"], os.environ["LWD_NATS_TOKEN"]
    yield trial
    trial.close()
    assert trial.pid is None


def test_a_good_policy_passes_and_the_process_stays_for_the_next_one(trial):
    trial.try_policy(good_policy(1))
    first = trial.pid
    trial.try_policy(best_of(2, 3))
    trial.try_policy(good_policy(2))
    assert trial.pid == first
    environment = Path(f"/proc/{first}/environ").read_bytes()
    assert b"secret" not in environment
    assert b"PATH=" in environment
    # Its pipes and nothing: no connection, no file of the host's.
    opened = {str(file.readlink()) for file in Path(f"/proc/{first}/fd").iterdir()}
    assert {name.partition(":")[0] for name in opened} <= {"pipe", "/dev/null"}


@pytest.mark.parametrize("bad", [bad for bad in bad_acts() if bad.name != "a-hang"], ids=lambda bad: bad.name)
def test_a_policy_that_must_not_act_fails_its_trial_and_the_next_one_passes(trial, bad):
    """What hangs takes its time: tests/attacks/test_bad_policies.py."""
    with pytest.raises(CheckpointError, match=bad.reason):
        trial.try_policy(bad.data)
    trial.try_policy(good_policy(3))


def test_a_process_that_was_killed_is_started_again(trial):
    trial.try_policy(good_policy(4))
    killed = trial.pid
    os.kill(killed, 9)
    trial.try_policy(good_policy(5))
    assert trial.pid != killed


def test_a_missing_base_is_no_verdict_about_the_policy(trial):
    """What cannot be downloaded now may be there later."""
    with pytest.raises(StoreError, match="policy-bases/"):
        trial.try_policy(rewritten(lambda metadata: metadata.update(base="0" * 64)))


def test_a_host_that_stops_ends_a_trial_without_a_verdict(tmp_path):
    trial = ProcessTrial(DirectoryStore(tmp_path), tmp_path, [EMBODIMENT])
    threading.Timer(0.5, trial.close).start()
    begun_s = time.monotonic()
    with pytest.raises(ServiceError, match="the host stops"):
        trial.try_policy(hanging())
    assert time.monotonic() - begun_s < 30
    with pytest.raises(ServiceError, match="the host stops"):
        trial.try_policy(good_policy())


def test_a_policy_that_is_too_slow_for_the_host_is_refused(tmp_path):
    trial = ProcessTrial(
        DirectoryStore(tmp_path), tmp_path, [EMBODIMENT], limits=replace(TrialLimits(), act_seconds=1e-6)
    )
    try:
        with pytest.raises(CheckpointError, match="s to act for 1 robots, more than"):
            trial.try_policy(good_policy())
    finally:
        trial.close()
