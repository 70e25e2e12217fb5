"""Stop at the console: everybody who is logged in may, only operators release, with the bus and without."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from lwd.fleet.stop_files import StopFiles, StopFileThread

from ... import driven_fleet
from ...nats_servers import free_port
from .test_app import Browser, accounts, console, log_in, until

__all__ = ["accounts"]


class Elsewhere:
    """A message bus that is not there."""

    url = f"nats://127.0.0.1:{free_port()}"


@pytest.fixture
def fleet(tmp_path, server) -> Iterator[driven_fleet.DrivenFleet]:
    """Two robots at work, which also look at the run's files."""
    with driven_fleet.driven_fleet(tmp_path, server, gain=0.0, robots=2) as fleet:
        files = StopFileThread(StopFiles(tmp_path), fleet.network.latch)
        files.report = fleet.network.stops.report
        stop = threading.Event()
        thread = threading.Thread(target=fleet.host().run, args=(stop.is_set,))
        thread.start()
        try:
            until(lambda: fleet.steps_of("robot-0") and fleet.steps_of("robot-1"))
            yield fleet
        finally:
            stop.set()
            thread.join()
            files.close()


def is_stopped(fleet: driven_fleet.DrivenFleet) -> bool:
    return fleet.network.alarm != "" and not fleet.episode_of("robot-0") and not fleet.episode_of("robot-1")


def audited(client: Any, what: str) -> list[dict[str, Any]]:
    return [row for row in client.get("/api/audit").json() if row["what"] == what]


def release_all(client: Any, headers: dict[str, str]) -> int:
    ids = [stop["stop_id"] for stop in client.get("/api/stop").json()["active"]]
    return client.post("/api/stop/release", json={"stop_ids": ids, "reason": "looked"}, headers=headers).status_code


def test_viewer_stops_all_robots_and_only_an_operator_releases_them(tmp_path, fleet, server, accounts):
    with console(tmp_path, server, accounts) as client:
        assert client.post("/api/stop", json={}).status_code == 401
        headers = log_in(client, "viewer")
        assert client.post("/api/stop", json={}, headers={"X-CSRF-Token": "guess"}).status_code == 403
        assert client.post("/api/stop", json={"reason": "\x07"}, headers=headers).status_code == 422
        assert not fleet.network.alarm
        begun_s = time.monotonic()
        answer = client.post("/api/stop", json={"reason": "it smells"}, headers=headers).json()
        assert time.monotonic() - begun_s < 5
        assert [(stop["by"], stop["reason"]) for stop in answer["active"]] == [("viewer", "it smells")]
        until(lambda: is_stopped(fleet))
        assert fleet.network.alarm == "stopped by viewer: it smells"
        assert release_all(client, headers) == 403
        # Twice is once, and somebody else's is noted beside it.
        client.post("/api/stop", json={}, headers=headers)
        headers = log_in(client, "operator")
        answer = client.post("/api/stop", json={}, headers=headers).json()
        assert [stop["by"] for stop in answer["active"]] == ["viewer", "operator"]
        with Browser(client) as tab:
            robot = tab.until(lambda robot: robot["state"] == "stopped")
            assert robot["fault"].startswith("stopped by viewer")
            assert [host["holds"] for host in tab.fleet["stop"]["hosts"]] == [True]
        assert release_all(client, headers) == 200
        until(lambda: fleet.steps_of("robot-0") and fleet.steps_of("robot-1"))
        headers = log_in(client, "admin")
        until(lambda: len(audited(client, "stop")) == 2)
        assert [row["who"] for row in audited(client, "stop")] == ["operator", "viewer"]
        assert audited(client, "stop released")[0]["reason"] == "looked"


def test_stop_over_an_open_connection_asks_no_token_again(tmp_path, fleet, server, accounts):
    with console(tmp_path, server, accounts) as client:
        headers = log_in(client, "operator")
        with Browser(client) as tab:
            tab.socket.send_json({"kind": "stop", "reason": ""})
            tab.until(lambda robot: robot["state"] == "stopped")
        assert is_stopped(fleet)
        assert release_all(client, headers) == 200


def test_release_leaves_a_stop_that_came_meanwhile(tmp_path, fleet, server, accounts):
    with console(tmp_path, server, accounts) as client:
        headers = log_in(client, "viewer")
        seen = client.post("/api/stop", json={}, headers=headers).json()["active"]
        headers = log_in(client, "admin")
        client.post("/api/stop", json={"reason": "a finger"}, headers=headers)
        headers = log_in(client, "operator")
        body = {"stop_ids": [stop["stop_id"] for stop in seen], "reason": "nothing there"}
        left = client.post("/api/stop/release", json=body, headers=headers).json()["active"]
        assert [stop["reason"] for stop in left] == ["a finger"]
        until(lambda: fleet.network.alarm == "stopped by admin: a finger")
        assert release_all(client, headers) == 200


def test_stop_without_a_bus_reaches_the_hosts_of_the_run_directory(tmp_path, fleet, accounts):
    with console(tmp_path, Elsewhere(), accounts) as client:
        headers = log_in(client, "viewer")
        answer = client.post("/api/stop", json={}, headers=headers).json()
        assert "no message bus" in answer["trouble"]
        until(lambda: is_stopped(fleet))
        until(lambda: [report.holds for report in StopFiles(tmp_path).hosts()] == [True])


def test_button_in_the_console_s_run_stops_hosts_elsewhere_too(tmp_path, server, accounts):
    run = tmp_path / "console"
    (run / "stop").mkdir(parents=True)
    with driven_fleet.driven_fleet(tmp_path / "elsewhere", server, gain=0.0) as fleet:
        stop = threading.Event()
        thread = threading.Thread(target=fleet.host().run, args=(stop.is_set,))
        thread.start()
        try:
            with console(run, server, accounts) as client:
                until(lambda: fleet.steps_of("robot-0"))
                (run / "stop" / "button").touch()
                until(lambda: fleet.network.alarm == "stopped by somebody: file button")
                assert release_all(client, log_in(client, "operator")) == 200
                until(lambda: not fleet.network.alarm)
                until(lambda: not (run / "stop" / "button").exists())
        finally:
            stop.set()
            thread.join()
