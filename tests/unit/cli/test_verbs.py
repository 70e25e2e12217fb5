"""Verbs on real policies, runs and ports: results on stdout, explanations on stderr, nothing else."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lwd.cli.main import dispatch
from lwd.data.log import LogReader
from lwd.data.policies import PolicyPublisher
from lwd.errors import MISCONFIGURED
from lwd.learner.checkpoint import Progress
from lwd.models.checkpoint import policy_bytes
from lwd.models.instruction import EMBEDDING_SIZE, InstructionEncoder
from lwd.models.normalization import StateStatistics
from lwd.models.vla import SmallVLA, VLAConfig
from lwd.recipes.offline_data import OfflineDataConfig
from lwd.recipes.run_directory import RunDirectory
from lwd.robots.sim import TASKS
from lwd.robots.sim.embodiments import STATE_EMBODIMENT
from lwd.types import Embodiment

from ...tiny_run import commit, make_data


def policy_of(embodiment: Embodiment) -> bytes:
    """A policy of few weights that knows all instructions, so that nothing loads the sentence encoder."""
    torch.manual_seed(0)
    known = {
        text: np.full(EMBEDDING_SIZE, 0.1, np.float32)
        for task in TASKS.values()
        for text in (*task.instructions, *task.heldout_instructions)
    }
    size = embodiment.state_size
    config = VLAConfig(horizon=10, token_width=4, context_size=8, expert_width=8, expert_depth=1, flow_steps=2)
    statistics = StateStatistics(mean=(0.0,) * size, std=(1.0,) * size)
    return policy_bytes(SmallVLA(embodiment, config, statistics, InstructionEncoder(known)))


@pytest.fixture
def policy(tmp_path) -> Path:
    path = tmp_path / "policy.safetensors"
    path.write_bytes(policy_of(STATE_EMBODIMENT))
    return path


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command line that must be refused; return its explanation."""
    assert dispatch(words) in (1, MISCONFIGURED)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    return captured.err


EVALUATE = ("--episodes", "1", "--tasks", "press_button", "--workers", "0")


def test_evaluate_json_is_pure_json(policy, capfd):
    assert dispatch(["evaluate", str(policy), *EVALUATE, "--json", "--method", "mine"]) == 0
    captured = capfd.readouterr()
    result = json.loads(captured.out)
    assert result["method"] == "mine"
    assert [episode["task"] for episode in result["episodes"]] == ["press_button"]
    assert "1/1" in captured.err  # progress goes to the other stream
    assert json.loads((policy.parent / "mine.json").read_text()) == result


def test_evaluate_prints_a_table_and_keeps_finished_episodes(policy, capfd):
    assert dispatch(["evaluate", str(policy), *EVALUATE]) == 0
    first = capfd.readouterr().out
    assert "press_button" in first
    assert f"written to {policy.parent / 'policy.json'}" in first
    journal = (policy.parent / "policy.jsonl").read_bytes()
    assert dispatch(["evaluate", str(policy), *EVALUATE]) == 0
    assert capfd.readouterr().out == first
    assert (policy.parent / "policy.jsonl").read_bytes() == journal


def test_a_policy_of_another_action_space_is_refused(tmp_path, capsys):
    wider = replace(STATE_EMBODIMENT, action_high=(2.0, *STATE_EMBODIMENT.action_high[1:]))
    path = tmp_path / "policy.safetensors"
    path.write_bytes(policy_of(wider))
    error = refused(["evaluate", str(path), *EVALUATE], capsys)
    assert "trained for action_high = [2.0," in error
    assert "use a checkpoint of this embodiment" in error


@pytest.mark.parametrize(
    ("words", "explanation"),
    [
        (["--tasks", "make_coffee"], "'make_coffee'"),
        (["--world", "mars"], "world 'mars' is not known"),
        (["--episodes", "0"], "episodes_per_task=0 must be at least 1"),
        (["--workers", "-1"], "workers=-1 must be at least 0"),
    ],
)
def test_evaluate_explains_wrong_settings(policy, words, explanation, capsys):
    assert explanation in refused(["evaluate", str(policy), *words], capsys)


def test_evaluate_explains_what_is_no_policy(policy, tmp_path, capsys):
    assert "there is no policy at" in refused(["evaluate", str(tmp_path / "nothing")], capsys)
    policy.write_bytes(policy.read_bytes()[:-100])
    assert "not an intact safetensors file" in refused(["evaluate", str(policy)], capsys)
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    assert "--method is None" in refused(["evaluate", str(tmp_path / "run")], capsys)
    error = refused(["evaluate", str(tmp_path / "run"), "--method", "lwd_online"], capsys)
    assert "run `lwd up --run" in error


def test_report_json_is_pure_json(policy, tmp_path, capfd):
    run = tmp_path / "run"
    out = ("--out", str(run / "eval" / "sft.json"), "--method", "sft")
    assert dispatch(["evaluate", str(policy), *EVALUATE, *out]) == 0
    capfd.readouterr()
    assert dispatch(["report", str(run), "--json"]) == 0
    captured = capfd.readouterr()
    assert "sft" in json.dumps(json.loads(captured.out))
    assert captured.err == ""
    assert dispatch(["report", str(run)]) == 0
    assert f"report: {run / 'report.html'}" in capfd.readouterr().out.replace("\n", "")
    assert (run / "report.html").stat().st_size > 1000


@pytest.mark.parametrize(
    "verb",
    ["demo", "up", "data generate", "sft", "offline", "robot", "coordinator", "learner", "filtered-bc", "report"],
)
def test_a_run_that_is_a_file_is_refused(verb, tmp_path, capsys):
    path = tmp_path / "file"
    path.write_text("no run")
    where = [str(path)] if verb == "report" else ["--run", str(path)]
    assert str(path) in refused([*verb.split(), *where], capsys)
    assert path.read_text() == "no run"


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["sft"], "lwd data generate"),
        (["offline"], "lwd sft"),
        (["up"], "lwd sft"),
        (["filtered-bc"], "lwd up"),
        (["robot"], "lwd data generate"),
        (["coordinator"], "lwd data generate"),
    ],
)
def test_a_run_without_what_a_verb_needs_names_the_command_to_run(words, command, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    assert f"run `{command} --run {run}`" in refused([*words, "--run", str(run)], capsys)


@pytest.mark.parametrize("verb", ["sft", "offline", "up"])
def test_a_device_that_is_not_there_is_refused(verb, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    error = refused([verb, "--run", str(tmp_path / "run"), "--device", "xpu:7"], capsys)
    assert "device 'xpu:7' cannot be used" in error
    assert "use --device cpu" in error


@pytest.fixture
def ready_for_up(tmp_path) -> RunDirectory:
    """A run whose stages before the fleet are finished."""
    run = RunDirectory(tmp_path / "run")
    for stage in ("sft", "offline"):
        progress = Progress(stage=stage, update=1, snapshot=1, policy_version=0, finished=True)
        run.checkpoints(stage).save(progress, policy=b"p", value=b"v", state={}, config={})
    return run


def test_a_taken_port_is_named(ready_for_up, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert dispatch(["up", "--run", str(ready_for_up.path), "--nats-port", str(port)]) == 1
    captured = capsys.readouterr()
    assert f"port {port} on 127.0.0.1 is taken" in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    ("words", "explanation"),
    [
        (["--robots", "0"], "robots is 0"),
        (["--hosts", "17", "--robots", "4"], "hosts is 17; use 1 to 4"),
        (["--env-steps", "0"], "env_steps is 0"),
        (["--world", "mars"], "world 'mars' is not known"),
    ],
)
def test_up_explains_wrong_settings(ready_for_up, words, explanation, capsys):
    assert explanation in refused(["up", "--run", str(ready_for_up.path), *words], capsys)


def test_one_run_is_one_demo(tmp_path, capsys):
    run = RunDirectory(tmp_path / "run")
    run.write_config("demo", {"budget": "smoke", "seed": 0, "observation": "state"})
    error = refused(["demo", "--run", str(run.path), "--budget", "full"], capsys)
    assert "was begun with --budget smoke, now it is full" in error
    assert "directory of its own with --run" in error


# ---- processes -------------------------------------------------------------------------------------------------


def start(*words: str) -> subprocess.Popen[str]:
    """A command in a process group of its own, as a shell starts it."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "lwd", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=environment,
    )


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str], timeout_s: float = 90.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def test_ctrl_c_while_data_is_made(tmp_path):
    """All processes of the group get the signal, as at a terminal."""
    run = tmp_path / "run"
    # The full budget takes minutes: the smoke budget's data may be complete before the signal comes.
    process = start("data", "generate", "--run", str(run), "--budget", "full")
    wait_until(lambda: any(run.glob("store/episodes/*/*.arrow")), process)
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, (output, errors)
    assert "lwd data generate: stopped; the same command continues" in errors
    for noise in ("Traceback", "Warning", "GLFW", "resource_tracker"):
        assert noise not in errors


@pytest.mark.faults
def test_no_worker_outlives_a_killed_data_generation(tmp_path):
    process = start("data", "generate", "--run", str(tmp_path / "run"), "--budget", "full")
    wait_until(lambda: any((tmp_path / "run").glob("store/episodes/*/*.arrow")), process)
    process.kill()
    # The pipes end when the last process that holds them has.
    process.communicate(timeout=60)


def test_a_robot_host_refuses_a_policy_of_another_embodiment(tmp_path):
    run = RunDirectory(tmp_path / "run")
    only_one = OfflineDataConfig(
        tasks=("press_button",), demonstrations_per_task=1, rollout_successes_per_task=0, rollout_failures_per_task=0,
        play_per_task=0,
    )  # fmt: skip
    commit(run, make_data(only_one))
    faster = replace(STATE_EMBODIMENT, control_hz=50.0)
    publisher = PolicyPublisher(run.store())
    publisher.publish(policy_of(faster), update=0, snapshot=0)
    process = start(
        "robot", "--run", str(run.path), "--operator", "none", "--max-episodes", "1", "--tasks", "press_button"
    )
    lines: list[str] = []
    assert process.stderr is not None
    for line in process.stderr:
        lines.append(line)
        if "policy 0 is not used" in line:
            break
    assert "trained for control_hz = 50.0, the robot has 20.0" in lines[-1]
    # It waits for one that fits, and acts with that.
    publisher.publish(policy_of(STATE_EMBODIMENT), update=1, snapshot=0)
    wait_until(lambda: any(run.path.glob("store/episodes/robot-00/*.arrow")), process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0
    reader = LogReader(run.store())
    reader.poll()
    assert len(reader.snapshot.episodes) == 1  # nobody commits here: no coordinator runs


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sft", "--lora", "4"], "--lora is of a pretrained policy"),
        (["sft", "--states-at-once", "2"], "--states-at-once is of a pretrained policy"),
        (["sft", "--cameras", "image=front"], "--cameras is of a pretrained policy"),
        (["offline", "--critic-states-at-once", "2"], "give --critic-language"),
        (["offline", "--critic-vision", "elsewhere"], "give --critic-language"),
    ],
)
def test_options_that_would_do_nothing_are_refused(words, said, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    assert said in refused([*words, "--run", str(tmp_path / "run")], capsys)
    assert not (tmp_path / "run" / "config.json").exists()
