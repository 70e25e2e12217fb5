"""A console with accounts over a host of two point masses, in a real browser: who may do what (`make e2e`).

Set LWD_E2E_PICTURES to a directory to keep the screenshots.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lwd.console.accounts import Role
from lwd.fleet.nats_server import NatsServer

from .. import driven_fleet
from ..served_console import served_console

pytestmark = pytest.mark.e2e
WEB = Path(__file__).parents[2] / "web"
ACCOUNT = (sys.executable, "-m", "lwd", "console", "account")
PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Iterator[Path]:
    """Robots that never get anywhere by themselves, at work, and an account of each role."""
    run = tmp_path_factory.mktemp("run")
    for role in Role:
        command = [*ACCOUNT, "--run", str(run), "--name", role.label, "--role", role.label]
        subprocess.run(command, input=PASSWORD, text=True, check=True)
    with NatsServer(run / "nats") as server, driven_fleet.driven_fleet(run, server, gain=0.0, robots=2) as fleet:
        over = threading.Event()
        thread = threading.Thread(target=fleet.host().run, args=(over.is_set,))
        thread.start()
        try:
            yield run
        finally:
            over.set()
            thread.join()


def test_each_may_do_what_their_role_says(run, tmp_path):
    pictures = Path(os.environ.get("LWD_E2E_PICTURES", tmp_path))
    pictures.mkdir(parents=True, exist_ok=True)
    with served_console(run) as url:
        command = ["node", "e2e/accounts.mjs", url, PASSWORD, str(pictures)]
        result = subprocess.run(command, cwd=WEB, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr + result.stdout
    seen = json.loads(result.stdout)
    only_looks = "a viewer only looks: log in as an operator to take robots over"
    assert seen["wrong_password"] == "name or password is wrong"
    assert seen["viewer"] == "viewer (viewer)"
    assert seen["viewers_buttons"] == 0
    assert seen["viewers_command"] == only_looks
    assert [(who, what, robot, refused) for _, who, what, robot, _, refused in reversed(seen["audit"])] == [
        ("viewer", "login refused", "", ""),
        ("viewer", "login", "", ""),
        ("viewer", "take", "robot-0", only_looks),
        ("viewer", "logout", "", ""),
        ("operator", "login", "", ""),
        ("operator", "take", "robot-0", ""),
        ("operator", "release", "robot-0", ""),
        ("operator", "logout", "", ""),
        ("admin", "login", "", ""),
    ]
