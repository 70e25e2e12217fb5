"""Accounts and a proxy's login over a host of two point masses, in a real browser: who may do what (`make e2e`).

Set LWD_E2E_PICTURES to a directory to keep the screenshots.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lwd.console.accounts import Role
from lwd.fleet.nats_server import NatsServer

from .. import driven_fleet
from ..nats_servers import free_port
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


@pytest.fixture
def pictures(tmp_path) -> str:
    pictures = Path(os.environ.get("LWD_E2E_PICTURES", tmp_path))
    pictures.mkdir(parents=True, exist_ok=True)
    return str(pictures)


def browse(script: str, *arguments: str) -> dict[str, Any]:
    """Return what a script saw in the browser."""
    command = ["node", f"e2e/{script}.mjs", *arguments]
    result = subprocess.run(command, cwd=WEB, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr + result.stdout
    return json.loads(result.stdout)


def test_each_may_do_what_their_role_says(run, pictures):
    with served_console(run) as url:
        seen = browse("accounts", url, PASSWORD, pictures)
    only_looks = "a viewer only looks: log in as an operator to take robots over"
    assert seen["wrong_password"] == "name or password is wrong"
    assert seen["viewer"] == "viewer (viewer)"
    assert seen["viewers_buttons"] == 0
    assert seen["viewers_command"] == only_looks
    assert [(who, what, robot, refused) for _, who, what, robot, _, refused in reversed(seen["audit"])] == [
        ("viewer", "login refused", "", "name or password is wrong"),
        ("viewer", "login", "", ""),
        ("viewer", "take", "robot-0", only_looks),
        ("viewer", "logout", "", ""),
        ("operator", "login", "", ""),
        ("operator", "take", "robot-0", ""),
        ("operator", "release", "robot-0", ""),
        ("operator", "logout", "", ""),
        ("admin", "login", "", ""),
    ]


def test_behind_a_proxy_the_page_is_of_whom_it_names_and_says_why_one_is_refused(run, pictures):
    port = free_port()
    secret = "0123456789abcdef" * 4
    file = run / "proxy-secret"
    file.write_text(secret)
    file.chmod(0o600)
    origin = ("--origin", f"http://127.0.0.1:{port}")
    with served_console(run, *origin, "--proxy-header", "Remote-User", "--proxy-secret-file", str(file)) as url:
        seen = browse("proxy", url, str(port), secret, pictures)
    assert seen["logged_out"] == "you are not logged in at the proxy"
    assert "`lwd console account --run RUN --name stranger --role viewer --proxy-only` adds it" in seen["stranger"]
