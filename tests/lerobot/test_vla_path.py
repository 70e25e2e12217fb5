"""The whole path of a LeRobot VLA: recorded pixels in, SFT, offline, a fleet that learns, LeRobot's own evaluation."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lwd.data.log import LogReader
from lwd.models.lerobot.files import save_lerobot
from lwd.recipes.run_directory import RunDirectory
from lwd.types import Source

from .tiny_vla import tiny_vla

TASK = "reach-v3"
ROBOTS = "--gym metaworld-mt10-pixels --tasks reach-v3 --operator-allowed-fraction 1"


@pytest.fixture
def lwd(tmp_path):
    def call(*words: str, program: tuple[str, ...] = (sys.executable, "-m", "lwd"), limit_s: float = 900) -> str:
        environment = {**os.environ, "MUJOCO_GL": "egl", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        command = [*program, *words]
        found = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=limit_s, check=False
        )
        assert found.returncode == 0, f"{' '.join(command)}\n{found.stdout}\n{found.stderr}"
        return found.stdout

    return call


@pytest.mark.e2e
def test_from_recorded_pixels_to_lerobots_evaluation(lwd, tmp_path):
    (tmp_path / "tokens").mkdir()
    save_lerobot(tiny_vla("smolvla", tmp_path / "tokens"), tmp_path / "tiny")

    sizes = ("--demonstrations", "2", "--rollouts", "1")
    lwd("data", "metaworld", "--run", "recorder", "--pixels", "--tasks", TASK, *sizes)
    lwd("data", "export", "--run", "recorder", "--lerobot", "recorded")
    lwd("data", "import", "--lerobot", "recorded", "--run", "run", "--label-column", "outcome")
    start = ("--pretrained", str(tmp_path / "tiny"), "--cameras", "image=front", "--fit-to-data")
    lwd("sft", "--run", "run", "--budget", "vla_smoke", *start)
    lwd("offline", "--run", "run", "--budget", "vla_smoke")
    up = ("up", "--run", "run", "--budget", "vla_smoke", "--robots", "2", f"--robot-options={ROBOTS}")
    lwd(*up)
    # On few cores the robots may use up their steps before the first online policy is there; they go on with it.
    lwd(*up, "--env-steps", "1500")

    run = RunDirectory(tmp_path / "run")
    reader = LogReader(run.store())
    reader.poll()
    fleet = [item.entry for item in reader.snapshot.episodes.values() if item.entry.source is Source.FLEET]
    assert {entry.robot_id for entry in fleet} == {"robot-00", "robot-01"}
    assert any(entry.human_steps for entry in fleet)
    online = run.finished("online", "up")
    assert online.progress.update >= 100
    assert max(entry.policy_version for entry in fleet) >= 1, (
        "no robot ever acted with a policy that had learned online"
    )

    lwd("policy", "export", str(online.directory), "--lerobot", "out")
    lerobot_eval = (str(Path(sys.executable).parent / "lerobot-eval"),)
    environment = ("--env.type=metaworld", f"--env.task={TASK}", "--eval.n_episodes=1", "--eval.batch_size=1")
    camera = '--rename_map={"observation.image": "observation.images.front"}'
    policy = ("--policy.path=out", "--policy.device=cpu", "--output_dir=evaluated")
    lwd(*policy, *environment, camera, program=lerobot_eval)
    info = json.loads((tmp_path / "evaluated" / "eval_info.json").read_text())
    assert info["overall"]["n_episodes"] == 1
