"""Checkpoints that survive a crash and refuse damage."""

import pytest
import torch

from lwd.errors import CheckpointError, ResumeError
from lwd.learner.checkpoint import CheckpointStore, Progress, open_checkpoint


def progress(update: int, *, finished: bool = False) -> Progress:
    return Progress(stage="offline", update=update, snapshot=3, policy_version=0, finished=finished)


def save(store: CheckpointStore, update: int, *, finished: bool = False):
    state = {"policy": {"weight": torch.full((2,), float(update))}, "updates": update, "spread": None}
    return store.save(
        progress(update, finished=finished), policy=b"policy", value=b"value", state=state, config={"seed": 1}
    )


def test_the_newest_checkpoint_comes_back_complete(tmp_path):
    store = CheckpointStore(tmp_path)
    for update in (5, 10, 15):
        save(store, update)
    latest = store.latest()
    assert latest is not None
    assert latest.progress == progress(15)
    assert latest.config == {"seed": 1}
    state = latest.state()
    assert state["updates"] == 15
    assert state["spread"] is None
    assert torch.equal(state["policy"]["weight"], torch.tensor([15.0, 15.0]))
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["update-000000010", "update-000000015"]


def test_a_stage_without_checkpoints_starts_afresh(tmp_path):
    assert CheckpointStore(tmp_path / "nothing").latest() is None


def test_saving_an_update_again_updates_its_manifest(tmp_path):
    store = CheckpointStore(tmp_path)
    save(store, 5)
    save(store, 5, finished=True)
    latest = store.latest()
    assert latest is not None
    assert latest.progress.finished
    assert [path.name for path in tmp_path.iterdir()] == ["update-000000005"]


def test_what_a_crash_left_half_written_is_ignored(tmp_path):
    store = CheckpointStore(tmp_path)
    save(store, 5)
    (tmp_path / ".writing-123").mkdir()
    (tmp_path / ".writing-123" / "policy.safetensors").write_bytes(b"half")
    latest = store.latest()
    assert latest is not None
    assert latest.progress.update == 5


@pytest.mark.parametrize("name", ["policy.safetensors", "state.safetensors"])
def test_a_damaged_file_is_named_and_nothing_starts_silently(tmp_path, name):
    store = CheckpointStore(tmp_path)
    save(store, 5)
    newest = save(store, 10)
    (newest.directory / name).write_bytes(b"damaged")
    with pytest.raises(ResumeError, match=rf"{name}.*continue from update-000000005"):
        store.latest()


def test_a_missing_file_is_named(tmp_path):
    checkpoint = save(CheckpointStore(tmp_path), 5)
    checkpoint.policy_path.unlink()
    with pytest.raises(CheckpointError, match=r"policy\.safetensors"):
        open_checkpoint(checkpoint.directory)
