"""A stage that is interrupted and continued equals one that never was."""

from copy import deepcopy

import pytest
import torch

from lwd.algos.config import LWDConfig
from lwd.algos.lwd import LWD
from lwd.errors import ResumeError
from lwd.learner.checkpoint import CheckpointStore
from lwd.learner.stage import Stage, StageFiles
from lwd.models.checkpoint import policy_bytes, value_bytes


@pytest.fixture
def make_stage(policy, critic, make_batch, tmp_path):
    class Batches:
        def batch(self, update_index):
            return make_batch(seed=update_index)

    def build(name: str, *, snapshot: int = 1, learning_rate: float = 1e-3):
        config = LWDConfig(temperature="auto", spread_every=2, actor_learning_rate=learning_rate)
        algorithm = LWD(deepcopy(policy), deepcopy(policy), deepcopy(critic), config, torch.Generator().manual_seed(0))
        files = StageFiles(
            policy=lambda: policy_bytes(algorithm.policy),
            value=lambda: value_bytes(algorithm.critic),
            config={"learning_rate": learning_rate},
        )
        stage = Stage("offline", algorithm, CheckpointStore(tmp_path / name), files, updates=8, snapshot=snapshot)
        return stage, Batches()

    return build


def test_an_interrupted_stage_ends_in_the_same_bytes(make_stage):
    stage, batches = make_stage("whole")
    assert [result.update for result in stage.run(batches)] == list(range(1, 9))
    whole = stage.checkpoints.latest()

    stage, batches = make_stage("interrupted")
    stop_at = stage.run(batches, stop=lambda: stage.progress.update == 4)
    done = [result.update for result in stop_at]
    assert done == [1, 2, 3, 4]
    assert not stage.finished
    again, batches = make_stage("interrupted")
    assert [result.update for result in again.run(batches)] == list(range(len(done) + 1, 9))
    assert again.finished
    resumed = again.checkpoints.latest()
    for name in ("policy_path", "value_path"):
        assert getattr(whole, name).read_bytes() == getattr(resumed, name).read_bytes()
    assert (whole.directory / "state.safetensors").read_bytes() == (
        resumed.directory / "state.safetensors"
    ).read_bytes()


def test_a_finished_stage_has_nothing_left_to_do(make_stage):
    stage, batches = make_stage("whole")
    assert list(stage.run(batches))
    again, batches = make_stage("whole")
    assert again.finished


def test_other_settings_or_other_data_are_refused(make_stage):
    stage, batches = make_stage("whole")
    assert list(stage.run(batches))
    with pytest.raises(ResumeError, match=r"learning_rate = 0\.001, now it is 0\.01"):
        make_stage("whole", learning_rate=0.01)
    with pytest.raises(ResumeError, match="snapshot 1, the store is at 2"):
        make_stage("whole", snapshot=2)
