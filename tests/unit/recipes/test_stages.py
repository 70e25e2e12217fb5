"""SFT, offline, online and the imitation control as stages of a run: exact continuation, and what they refuse."""

from dataclasses import replace

import pytest
import torch

from lwd.data.sampling import human_steps
from lwd.errors import CheckpointError, ConfigError, NonFiniteLoss, ResumeError
from lwd.learner.checkpoint import Checkpoint
from lwd.models.checkpoint import load_value
from lwd.recipes.algorithms import continue_online
from lwd.recipes.fleet_learner import LearnerConfig, run_learner
from lwd.recipes.run_directory import RunDirectory
from lwd.recipes.stages import Control, online_strata, run_filtered_bc, run_offline, run_sft
from lwd.types import Episode, Source

from ...tiny_run import RECIPE, as_fleet, commit, copy_of, make_data


@pytest.fixture(scope="module")
def episodes() -> list[Episode]:
    return make_data()


@pytest.fixture(scope="module")
def with_data(episodes, tmp_path_factory) -> RunDirectory:
    run = RunDirectory(tmp_path_factory.mktemp("run") / "data")
    commit(run, episodes)
    return run


@pytest.fixture(scope="module")
def with_sft(with_data, tmp_path_factory) -> RunDirectory:
    run = copy_of(with_data, tmp_path_factory.mktemp("run") / "sft")
    assert run_sft(run, RECIPE.sft, seed=3).progress.finished
    return run


@pytest.fixture(scope="module")
def with_offline(with_sft, tmp_path_factory) -> RunDirectory:
    run = copy_of(with_sft, tmp_path_factory.mktemp("run") / "offline")
    assert run_offline(run, RECIPE.offline, seed=3).progress.finished
    return run


def contents(checkpoint: Checkpoint) -> dict[str, bytes]:
    files = {path.name: path.read_bytes() for path in checkpoint.directory.iterdir()}
    assert {"policy.safetensors", "state.safetensors", "manifest.json"} <= files.keys()
    return files


def stop_after(updates: int) -> tuple[Control, list[int]]:
    """A control as Ctrl-C makes it, and the list of the updates it has seen."""
    seen: list[int] = []
    return Control(watch=lambda result, _: seen.append(result.update), stop=lambda: len(seen) >= updates), seen


def test_an_interrupted_sft_stage_ends_in_the_same_bytes(with_data, with_sft, tmp_path):
    run = copy_of(with_data, tmp_path / "run")
    control, _ = stop_after(5)
    stopped = run_sft(run, RECIPE.sft, seed=3, control=control)
    assert (stopped.progress.update, stopped.progress.finished) == (5, False)
    control, seen = stop_after(100)
    finished = run_sft(run, RECIPE.sft, seed=3, control=control)
    assert seen == [6, 7, 8, 9, 10, 11, 12]
    assert contents(finished) == contents(with_sft.finished("sft", "sft"))


def test_an_interrupted_offline_stage_ends_in_the_same_bytes(with_sft, with_offline, tmp_path):
    run = copy_of(with_sft, tmp_path / "run")
    for updates in (3, 4):  # twice
        control, _ = stop_after(updates)
        run_offline(run, RECIPE.offline, seed=3, control=control)
    finished = run_offline(run, RECIPE.offline, seed=3)
    assert contents(finished) == contents(with_offline.finished("offline", "offline"))


def test_the_seed_decides_the_weights(with_data, with_sft, tmp_path):
    """Guards the two tests above: their comparison can fail."""
    other = run_sft(copy_of(with_data, tmp_path / "run"), RECIPE.sft, seed=4)
    assert contents(other) != contents(with_sft.finished("sft", "sft"))


def test_a_stage_trains_on_the_snapshot_it_began_with(with_data, with_sft, episodes, tmp_path):
    run = copy_of(with_data, tmp_path / "run")
    control, _ = stop_after(5)
    run_sft(run, RECIPE.sft, seed=3, control=control)
    commit(run, [as_fleet(episodes[0])])
    assert contents(run_sft(run, RECIPE.sft, seed=3)) == contents(with_sft.finished("sft", "sft"))


def test_a_finished_stage_returns_at_once(with_offline):
    control, seen = stop_after(100)
    assert run_sft(with_offline, RECIPE.sft, seed=3, control=control) == with_offline.finished("sft", "sft")
    found = run_offline(with_offline, RECIPE.offline, seed=3, control=control)
    assert found == with_offline.finished("offline", "offline")
    assert seen == []


def test_a_finished_stage_of_other_settings_is_not_taken_for_done(with_offline):
    with pytest.raises(ResumeError, match=r"seed = 3, now it is 4.*remove .*sft to begin again"):
        run_sft(with_offline, RECIPE.sft, seed=4)
    longer = replace(RECIPE.offline, algorithm=replace(RECIPE.offline.algorithm, quantile_base=0.7))
    with pytest.raises(ResumeError, match=r"algorithm\.quantile_base = 0\.6, now it is 0\.7"):
        run_offline(with_offline, longer, seed=3)


def test_missing_demonstrations_name_the_command(episodes, tmp_path):
    empty = RunDirectory(tmp_path / "empty")
    with pytest.raises(CheckpointError, match=r"run `lwd data generate --run .*empty`"):
        run_sft(empty, RECIPE.sft, seed=0)
    played = RunDirectory(tmp_path / "played")
    commit(played, [episode for episode in episodes if episode.info.source is not Source.DEMONSTRATION])
    with pytest.raises(CheckpointError, match=r"no demonstrations: run `lwd data generate --run .*played`"):
        run_sft(played, RECIPE.sft, seed=0)


def test_a_missing_stage_names_the_command(with_data, tmp_path):
    run = copy_of(with_data, tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"stage 'sft' .* has not begun: run `lwd sft --run .*run`"):
        run_offline(run, RECIPE.offline, seed=3)
    control, _ = stop_after(2)
    run_sft(run, RECIPE.sft, seed=3, control=control)
    with pytest.raises(CheckpointError, match=r"stage 'sft' .* stopped at update 2: run `lwd sft --run .*run`"):
        run_offline(run, RECIPE.offline, seed=3)
    with pytest.raises(CheckpointError, match=r"run `lwd offline --run"):
        continue_online(run, RECIPE.online, seed=3, device="cpu")
    with pytest.raises(CheckpointError, match=r"run `lwd up --run"):
        run_filtered_bc(run, RECIPE, updates=1, seed=3)


def test_only_one_process_runs_a_stage(with_data, with_offline, tmp_path):
    run = copy_of(with_offline, tmp_path / "run")
    with run.locked("sft"), pytest.raises(ConfigError, match=r"another process runs stage 'sft'"):
        run_sft(run, RECIPE.sft, seed=3)
    with run.locked("offline"), pytest.raises(ConfigError, match=r"another process runs stage 'offline'"):
        run_offline(run, RECIPE.offline, seed=3)
    with run.locked("online"), pytest.raises(ConfigError, match=r"another process runs stage 'online'"):
        run_learner(run, RECIPE, LearnerConfig(on_bus=False), stop=lambda: True)
    assert run_sft(run, RECIPE.sft, seed=3).progress.finished  # the lock is free again


def test_divergence_is_named_with_what_remains(with_data, tmp_path):
    run = copy_of(with_data, tmp_path / "run")
    far_too_fast = replace(RECIPE.sft, algorithm=replace(RECIPE.sft.algorithm, learning_rate=1e30))
    with pytest.raises(NonFiniteLoss, match=r"loss/flow is (nan|inf).* no checkpoint was saved before.* remove .*sft"):
        run_sft(run, far_too_fast, seed=3)
    control, _ = stop_after(1)
    run_sft(run, far_too_fast, seed=3, control=control)
    with pytest.raises(NonFiniteLoss, match=r"last good checkpoint is .*update-000000001"):
        run_sft(run, far_too_fast, seed=3)


# ---- the online stage ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_online(with_offline, episodes, tmp_path_factory) -> RunDirectory:
    """A learner that followed a store while its fleet's episodes arrived."""
    run = copy_of(with_offline, tmp_path_factory.mktemp("run") / "online")
    arriving = iter([as_fleet(episode) for episode in episodes])

    def stop() -> bool:
        """Asked before every update: the fleet sends an episode meanwhile."""
        for episode in arriving:
            commit(run, [episode])
            break
        return False

    stage = run_learner(run, RECIPE, LearnerConfig(seed=3, on_bus=False), stop=stop)
    assert stage.progress.finished
    assert stage.reader.env_steps >= RECIPE.fleet.env_steps
    return run


def test_the_online_stage_begins_where_the_offline_stage_ended(with_offline):
    offline = with_offline.finished("offline", "offline").state()
    algorithm = continue_online(with_offline, RECIPE.online, seed=3, device="cpu")
    online = algorithm.state()
    for part, source in (
        ("policy", "averaged_policy"),
        ("averaged_policy", "averaged_policy"),
        ("critic", "critic"),
        ("target_critic", "target_critic"),
        ("reference", "reference"),
    ):
        for name, tensor in offline[source].items():
            assert torch.equal(online[part][name], tensor), (part, name)
    assert online["spread"] == offline["spread"]
    assert algorithm.updates == 0


def test_a_share_of_a_batch_outside_its_range_is_refused():
    for field in ("demonstration_share", "human_share"):
        with pytest.raises(ConfigError, match=rf"{field} is 1.5"):
            replace(RECIPE.online, **{field: 1.5})


def test_an_online_batch_holds_offline_and_fleet_alike_with_shares_for_what_is_worth_imitating():
    strata = online_strata(replace(RECIPE.online, demonstration_share=0.5, human_share=0.4))
    assert [stratum.fraction for stratum in strata] == pytest.approx([0.5, 0.5, 0.6, 0.4])
    assert [stratum.steps is human_steps for stratum in strata] == [False, False, False, True]
    plain = online_strata(replace(RECIPE.online, demonstration_share=0.0, human_share=0.0))
    assert [stratum.fraction for stratum in plain] == [1.0, 1.0]


def test_the_learner_follows_a_store_without_a_bus(with_online):
    found = with_online.finished("online", "up")
    assert found.progress.update == RECIPE.fleet.limiter.updates_allowed(RECIPE.fleet.env_steps)
    assert found.progress.snapshot > 1
    published = sorted(item.key for item in with_online.store().list("policies") if item.key.endswith(".safetensors"))
    # The first one, some while robots act on them (10 at least, as long as there are updates for them), and the last.
    assert 2 + 10 <= len(published) <= 2 + found.progress.update
    first, last = (with_online.store().get(key) for key in (published[0], published[-1]))
    assert first == with_online.finished("offline", "offline").policy_path.read_bytes()
    assert last == found.policy_path.read_bytes() != first
    load_value(found.value_path)


def test_the_imitation_control_trains_on_the_online_stage_s_data(with_online, tmp_path):
    run = copy_of(with_online, tmp_path / "run")
    control, _ = stop_after(2)
    run_filtered_bc(run, RECIPE, updates=6, seed=3, control=control)
    resumed = run_filtered_bc(run, RECIPE, updates=6, seed=3)
    assert resumed.progress.snapshot == run.finished("online", "up").progress.snapshot
    whole = run_filtered_bc(copy_of(with_online, tmp_path / "whole"), RECIPE, updates=6, seed=3)
    assert contents(resumed) == contents(whole)
    assert resumed.policy_path.read_bytes() != run.finished("sft", "sft").policy_path.read_bytes()
