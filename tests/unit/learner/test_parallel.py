"""Two real processes that train as one (gloo): their mathematics, their common snapshots, and the loss of one."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lwd.algos.optimization import OptimizerStep
from lwd.data.store import DirectoryStore
from lwd.errors import ResumeError
from lwd.learner.checkpoint import CheckpointStore
from lwd.learner.parallel import ALONE, group_from_environment

from ...group import run_group, start_group
from ...toy_learner import Fleet, Site, build, random_batch
from .group_process import BATCH, numbers


@pytest.fixture(scope="module")
def updates(tmp_path_factory) -> list[dict[str, Any]]:
    return run_group("updates", tmp_path_factory.mktemp("updates"))


def both(found: list[dict[str, Any]], name: str) -> Any:
    """What both processes found alike."""
    first, second = (part[name] for part in found)
    assert first == second
    return first


def test_what_the_processes_tell_each_other(updates):
    assert both(updates, "primitives") == {
        "means": {"a": 0.5, "b": 3.0},
        "minima": [5, 8],
        "any": [True, False],
        "bytes": ["", b"ab\0c".hex()],
        "gathered": [[0, 7], [1, 7]],
    }


@pytest.mark.parametrize(("index", "counts"), [*enumerate([(3, 5), (0, 5), (4, 0), (0, 0)])])
def test_a_step_weighs_each_process_by_what_it_has(updates, index, counts):
    """A process with nothing takes the others' step; with nothing anywhere nothing changes."""
    torch.manual_seed(5)
    weight, unused = nn.Parameter(torch.randn(3)), nn.Parameter(torch.ones(2))
    terms = torch.cat([torch.randn(count, 3) for count in counts])
    before = weight.tolist()
    alone = OptimizerStep([weight, unused], learning_rate=0.1, weight_decay=0.5)
    steps = []
    for _ in range(3):
        loss = (terms @ weight).square().mean() if len(terms) else torch.zeros(())
        steps.append(list(alone(loss, "loss", weight=len(terms))))
    found = both(updates, "weighted")[index]
    assert_close(torch.tensor(found["steps"]), torch.tensor(steps))
    assert_close(torch.tensor(found["weight"]), weight.detach())
    assert (found["weight"] == before) == (sum(counts) == 0)
    assert found["unused"] == [1.0, 1.0]  # weight decay would show


def test_the_critic_s_updates_are_those_of_one_process_with_both_batches(updates):
    algorithm = build(critic_learning_rate=1e-3, temperature=0.1)
    begun = numbers([*algorithm.critic.parameters(), *algorithm.target_critic.parameters()])
    for update in range(5):
        algorithm.update_critic(random_batch(2 * BATCH, seed=update))
    whole = torch.tensor(numbers([*algorithm.critic.parameters(), *algorithm.target_critic.parameters()]))
    found = torch.tensor(both(updates, "critic"))
    moved = (whole - torch.tensor(begun)).abs().max()
    assert moved > 1e-3
    # Adam divides by the gradient's size, so where that is nearly 0 rounding shows a little.
    assert (found - whole).abs().max() < 0.02 * moved
    assert (found - whole).abs().mean() < 1e-6


def test_all_of_lwd_s_networks_stay_the_same_in_both_processes(updates):
    first, second = (found["lwd"] for found in updates)
    assert first["weights"] == second["weights"]
    assert first["spread"] == second["spread"] > 0
    assert first["generator"] != second["generator"]  # each has its own noise
    for update in range(6):
        metrics = [found["metrics"][update] for found in (first, second)]
        assert metrics[0].keys() == metrics[1].keys()
        assert metrics[0].get("qam/temperature") == metrics[1].get("qam/temperature")
        # Nobody had anything to imitate in update 3, process 1 not in 1 and 2 either.
        assert ("loss/reference" in metrics[0]) == (update != 3)
        assert metrics[0]["loss/critic"] != metrics[1]["loss/critic"]  # each has its own batch


def test_a_loss_that_is_not_finite_in_one_process_stops_both(updates):
    first, second = (found["non_finite"] for found in updates)
    assert "loss/value + loss/critic of another process is not finite" in first["error"]
    assert "loss/value + loss/critic is nan" in second["error"]
    assert first["unchanged"]
    assert second["unchanged"]


def test_weights_that_differ_are_noticed(updates):
    assert "learner process 1 of 2 holds other weights than process 0" in both(updates, "other_weights")


# ---- the online stage --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def online(tmp_path_factory) -> tuple[Site, list[dict[str, Any]]]:
    path = tmp_path_factory.mktemp("online")
    found = run_group("online", path, statuses=(1, 1))  # in the end rank 1 leaves with an error, and rank 0 is alone
    return Site(path, Fleet(DirectoryStore(path / "store"))), found


def test_both_processes_are_on_one_snapshot_in_every_update(online):
    seen = dict(both(online[1], "seen"))
    assert len(seen) == 75
    # The episodes of 3 and 4 were committed after update 4; process 1 could not download them before update 35.
    # Nobody trained on them before, and nobody waited.
    assert [seen[update] for update in (1, 20, 40, 41, 75)] == [2, 2, 2, 4, 5]


def test_a_killed_group_repeats_its_updates_bit_for_bit(online):
    for found in online[1]:
        assert found["resumed_at"] == 20
        assert found["repeated"] == found["seen"][20:]
        assert found["same_bytes"]
    # The generators are of both processes; a comparison of equal bytes says more where they differ.
    checkpoint = CheckpointStore(online[0].path / "checkpoints").latest()
    assert checkpoint is not None
    generators = checkpoint.state()["generators"]
    assert generators.keys() == {"0", "1"}
    assert not torch.equal(generators["0"], generators["1"])


def test_only_rank_0_publishes_and_policies_come_out_again(online):
    first, second = (found["published"] for found in online[1])
    assert second == []
    assert [update for update, _, _ in first] == [*range(0, 80, 10), *range(30, 80, 10), 75]
    by_update = {(update, snapshot): digest for update, snapshot, digest in first[:8]}
    for update, snapshot, digest in first[8:13]:
        assert by_update[update, snapshot] == digest


def test_one_process_that_wants_to_stop_stops_both(online):
    assert not both(online[1], "finished")  # process 1 alone was asked


def test_another_number_of_processes_is_refused(online):
    with pytest.raises(ResumeError, match=r"begun with 2 learner processes, now there are 1: start 2, or remove"):
        online[0].learner()


def test_processes_that_begin_differently_end_with_a_reason(online):
    first, second = online[1]
    assert "learner process 1 has other settings than process 0" in second["other_settings"]
    assert "publish_every=11" in second["other_settings"]
    assert "process 0 of 2 could not wait for the others" in first["left_alone"]
    assert first["left_alone_s"] < 60


# ---- lost processes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("signal_name", "timeout_s"), [("SIGKILL", 600), ("SIGSTOP", 5)])
def test_a_lost_process_ends_the_others_with_a_clear_error(signal_name, timeout_s, tmp_path):
    """A killed one at once, one that hangs after the time limit."""
    survivor, lost = start_group("lost", tmp_path, SIGNAL=signal_name, GROUP_TIMEOUT_S=str(timeout_s))
    try:
        output, _ = survivor.communicate(timeout=120)
    finally:
        for process in (survivor, lost):
            process.kill()
            process.communicate()
    assert survivor.returncode == 1, output
    found = (tmp_path / "rank-0.json").read_text()
    assert '"kind": "ServiceError"' in found
    assert "learner process 0 of 2 could not sum up tensors: another one ended or does not answer" in found
    assert '"update": 3' in found


def test_one_process_needs_no_group(monkeypatch):
    for size in (None, "1"):
        monkeypatch.delenv("WORLD_SIZE", raising=False) if size is None else monkeypatch.setenv("WORLD_SIZE", size)
        with group_from_environment("cpu") as (group, device):
            assert (group, device) == (ALONE, "cpu")
    assert ALONE.sum_over_processes is None
    assert ALONE.broadcast(b"abc") == b"abc"
