"""Advice that cannot work: evaluations and generated data for a run whose robot is not simulated."""

import dataclasses
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from lwd.cli.main import dispatch
from lwd.data.validation import EpisodeLimits
from lwd.evaluation.run_data import read_run
from lwd.evaluation.run_summary import summarise_run
from lwd.fleet.embodiment import embodiment_json
from lwd.fleet.ingest import ingest
from lwd.learner.checkpoint import Progress
from lwd.recipes.advice import after_fleet
from lwd.recipes.run_directory import RunDirectory
from lwd.recipes.scene import recipe
from lwd.recipes.stages import described
from lwd.robots.sim.embodiments import PIXEL_EMBODIMENT, STATE_EMBODIMENT
from lwd.types import Embodiment

from ..unit.data.episodes import EMBODIMENT, episode

METAWORLD = replace(EMBODIMENT, name="metaworld-mt10-pixels")


def run_of(path: Path, robot: Embodiment | None, *, filled: bool = False) -> RunDirectory:
    run = RunDirectory(path)
    path.mkdir()
    if robot is not None:
        run.embodiment_path.write_bytes(embodiment_json(robot))
    if filled:
        robot = robot or replace(EMBODIMENT, name=STATE_EMBODIMENT.name)
        found = ingest(run.store(), [episode(embodiment=robot.name)], EpisodeLimits(embodiment=robot))
        assert found.committed
    return run


def finish(run: RunDirectory, stage: str, config: dict) -> None:
    progress = Progress(stage=stage, update=1, snapshot=1, policy_version=0, finished=True)
    run.checkpoints(stage).save(progress, policy=b"p", value=b"v", state={}, config=config)


@pytest.mark.parametrize("robot", [EMBODIMENT, None])
def test_the_next_step_of_a_stage_follows_the_robot(robot, tmp_path, capsys):
    """The stages were finished before, so their verbs only say what comes next."""
    run = run_of(tmp_path / "my run", robot, filled=True)
    smoke = recipe("smoke")
    finish(run, "sft", described(smoke.sft, seed=0))
    finish(run, "offline", described(smoke.offline, seed=0))
    finish(run, "filtered_bc", {"seed": 0, "updates": smoke.imitation_updates, **dataclasses.asdict(smoke.imitation)})
    said = {}
    for verb in ("sft", "offline", "filtered-bc"):
        assert dispatch([verb, "--run", str(run.path), "--budget", "smoke"]) == 0
        said[verb] = capsys.readouterr().out
    quoted = shlex.quote(str(run.path))
    assert f"next: lwd offline --run {quoted} --budget smoke" in said["sft"]
    assert f"next: lwd up --run {quoted} --budget smoke" in said["offline"]
    assert f"lwd report {quoted}" in said["filtered-bc"]
    for text in said.values():
        assert ("lwd evaluate" in text) == (robot is None)
    assert ('--robot-options="--gym ID"' in said["offline"]) == (robot is not None)


def test_what_follows_the_fleet_follows_the_robot():
    assert after_fleet(Path("r"), EMBODIMENT, "lwd_online") == "lwd report r"
    assert after_fleet(Path("r"), STATE_EMBODIMENT, "lwd_online") == (
        "lwd evaluate r --method lwd_online, then lwd report r"
    )


@pytest.mark.parametrize("robot", [EMBODIMENT, None])
def test_the_report_recommends_an_evaluation_only_where_there_can_be_one(robot, tmp_path):
    run = run_of(tmp_path / "run", robot, filled=True)
    missing = " ".join(summarise_run(read_run(run.path)).missing)
    assert ("run `lwd evaluate`" in missing) == (robot is None)


@pytest.mark.parametrize(
    ("robot", "command"),
    [
        (EMBODIMENT, "lwd data import --run {run} --lerobot DATASET` with recordings of toy"),
        (METAWORLD, "lwd data metaworld --run {run} --pixels`"),
        (PIXEL_EMBODIMENT, "lwd data generate --run {run} --observation pixels`"),
        (None, "lwd data generate --run {run}`, or `lwd data import --run {run} --lerobot DATASET`"),
    ],
)
@pytest.mark.parametrize("verb", ["robot", "coordinator", "data list"])
def test_an_empty_run_is_filled_with_episodes_of_its_own_robot(robot, command, verb, tmp_path, capsys):
    run = run_of(tmp_path / "run", robot)
    assert dispatch([*verb.split(), "--run", str(run.path)]) in (1, 78)
    said = capsys.readouterr().err
    assert f"is empty: run `{command.format(run=run.path)}" in said
    assert ("lwd data generate" in said) == (robot in (PIXEL_EMBODIMENT, None))


@pytest.mark.parametrize("verb", ["data generate", "demo"])
@pytest.mark.parametrize("filled", [False, True])
def test_a_brought_robots_run_is_not_filled_with_the_simulated_ones_episodes(verb, filled, tmp_path, capsys):
    run = run_of(tmp_path / "run", EMBODIMENT, filled=filled)
    before = sorted(run.path.rglob("*"))
    assert dispatch([*verb.split(), "--run", str(run.path), "--budget", "smoke"]) == 1
    said = capsys.readouterr().err
    assert "is of robot toy, which `lwd data generate` does not simulate: run `lwd data import" in said
    assert sorted(run.path.rglob("*")) == before


def test_a_run_of_states_is_not_filled_with_pictures(tmp_path, capsys):
    run = run_of(tmp_path / "run", None, filled=True)
    words = ["data", "generate", "--run", str(run.path), "--budget", "smoke", "--observation", "pixels"]
    assert dispatch(words) == 1
    assert "has episodes of ogbench-scene, not of ogbench-scene-pixels: give another --run" in capsys.readouterr().err


def test_a_fleet_of_a_brought_robot_must_say_what_its_robots_are(tmp_path, capsys):
    run = run_of(tmp_path / "run", EMBODIMENT, filled=True)
    for stage in ("sft", "offline"):
        finish(run, stage, {})
    assert dispatch(["up", "--run", str(run.path)]) == 1
    said = capsys.readouterr().err
    assert "is of robot toy, which is not simulated: say what its robots are, such as --robot-options=" in said
    assert not (run.path / "logs").exists()
