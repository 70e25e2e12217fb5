"""Files of the run that the console reads, and what somebody (or a bad disk) may have made of them: no page hangs."""

import contextlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient

from lwd.console.app import AppConfig, create_app
from lwd.console.server import accounts_of
from lwd.data.plain_file import read_plain_file
from lwd.errors import ConfigError, LWDError
from lwd.fleet.coordinator_process import bus_of
from lwd.recipes.run_directory import RunDirectory

from ..served_console import open_link

ORIGIN = "http://127.0.0.1:8787"
WITHIN_S = 30.0


def fifo(path: Path) -> None:
    os.mkfifo(path)


def directory(path: Path) -> None:
    path.mkdir()


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


def damaged(path: Path) -> None:
    path.write_bytes(b'\x00\xff{"half')


def nobody(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere")


KINDS = (fifo, directory, huge, damaged, nobody)


@contextlib.contextmanager
def released(path: Path) -> Iterator[None]:
    """Let whoever waits at a fifo go on afterwards: a test that fails must end."""
    try:
        yield
    finally:
        if path.is_fifo():
            with contextlib.suppress(OSError):
                os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))


def answers(run: Path, *paths: str) -> dict[str, httpx.Response]:
    """Ask a console of the run; every answer must come in time."""
    config = AppConfig(
        run=RunDirectory(run),
        bus=lambda: bus_of(run, RunDirectory(run).bus()),
        origins=frozenset({ORIGIN}),
        accounts=accounts_of(RunDirectory(run)),
    )
    with TestClient(create_app(config), base_url=ORIGIN) as client, ThreadPoolExecutor(1) as asking:
        open_link(client, run)
        return {path: asking.submit(client.get, path).result(WITHIN_S) for path in ("/api/fleet", *paths)}


def answers_or_error(run: Path, *paths: str) -> tuple[dict[str, httpx.Response], str]:
    """Ask a console of the run; or return why it does not start."""
    try:
        return answers(run, *paths), ""
    except LWDError as error:
        return {}, str(error)


@pytest.fixture
def run(tmp_path) -> Path:
    for name in ("metrics", "eval", "nats", "console"):
        (tmp_path / name).mkdir()
    (tmp_path / "metrics" / "learner.jsonl").write_text('{"time_s": 1.0, "process": "learner"}\n')
    return tmp_path


@pytest.mark.parametrize("name", ["metrics/other.jsonl", "config.json"])
@pytest.mark.parametrize("make", KINDS)
def test_console_learning_page_leaves_a_strange_file_out_and_says_so(run, make, name):
    make(run / name)
    with released(run / name):
        found = answers(run, "/api/learning")
    assert {path: answer.status_code for path, answer in found.items()} == {"/api/fleet": 200, "/api/learning": 200}
    if not (make is damaged and "metrics" in name) and not (make is nobody and "metrics" in name):
        assert any(Path(name).name in note for note in found["/api/learning"].json()["notes"])


@pytest.mark.parametrize("name", ["eval/sft.json", "run.json", "embodiment.json", "nats/url"])
@pytest.mark.parametrize("make", KINDS)
def test_console_answers_whatever_a_file_of_the_run_has_become(run, make, name):
    make(run / name)
    with released(run / name):
        found, error = answers_or_error(run, "/api/learning", "/api/episodes", "/api/export")
    assert not error or str(run / name) in error
    for answer in found.values():
        assert answer.status_code in (200, 404)
        if answer.status_code != 200:
            assert answer.json()["detail"]


@pytest.mark.parametrize("name", ["accounts.json", "devices.key", "links"])
@pytest.mark.parametrize("make", KINDS)
def test_console_file_of_its_own_that_is_no_file_is_named_at_the_start(run, make, name):
    path = run / "console" / name
    make(path)
    with released(path):
        found, error = answers_or_error(run)
    # A key that is damaged is made anew; a broken symbolic link is no file.
    starts = make is nobody or (make is damaged and name == "devices.key") or (make is directory and name == "links")
    if name == "links" and make is not directory:
        starts = False
    assert bool(found) is starts
    assert starts or str(path) in error


@pytest.mark.parametrize("make", [fifo, directory, huge])
def test_console_plain_file_is_refused_with_its_path_and_kind(tmp_path, make):
    make(tmp_path / "file")
    with pytest.raises(
        ConfigError, match=rf"{tmp_path}/file (is a (fifo|directory), not a file: remove it|has \d+ bytes)"
    ):
        read_plain_file(tmp_path / "file", max_bytes=100)
    assert read_plain_file(tmp_path / "none", max_bytes=100) is None
    assert threading.active_count() < 50
