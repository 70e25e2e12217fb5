"""The film of a recorded episode: frames over HTTP, of the episode that was recorded."""

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from lwd.console.accounts import Accounts
from lwd.console.app import AppConfig, create_app
from lwd.console.episodes import Episodes
from lwd.data.episode_file import episode_key, write_episode
from lwd.data.store import DirectoryStore
from lwd.data.validation import EpisodeLimits
from lwd.fleet.bus_config import BusConfig
from lwd.fleet.coordinator import Coordinator
from lwd.recipes.run_directory import RunDirectory
from lwd.types import Episode

from ...served_console import open_link
from ..data.episodes import WITH_CAMERA, episode

ORIGIN = "http://testserver"


@pytest.fixture
def recorded(tmp_path) -> list[Episode]:
    """Two episodes with a camera in a run's log."""
    store = DirectoryStore(tmp_path / "store")
    episodes = [episode(number, steps=6, cameras=True) for number in range(2)]
    for each in episodes:
        store.create(episode_key(each.info.robot_id, each.info.episode_id), write_episode(each))
    coordinator = Coordinator(store, EpisodeLimits(embodiment=WITH_CAMERA))
    coordinator.process(coordinator.unprocessed())
    return episodes


@pytest.fixture
def client(tmp_path, recorded) -> Iterator[TestClient]:
    config = AppConfig(
        run=RunDirectory(tmp_path), bus=lambda: BusConfig(urls=("nats://127.0.0.1:1",)), origins=frozenset({ORIGIN}),
        accounts=Accounts(tmp_path / "none.json"),
    )  # fmt: skip
    with TestClient(create_app(config), base_url=ORIGIN) as client:
        open_link(client, tmp_path)
        yield client


def test_every_recorded_frame_comes_as_it_was_stored(client, recorded):
    for each in reversed(recorded):
        path = f"/api/episodes/{each.info.identity}"
        assert client.get(path).json()["cameras"] == {"wrist": 7}
        for step, expected in enumerate(each.images["wrist"]):
            answer = client.get(f"{path}/frames/wrist/{step}")
            assert (answer.content, answer.headers["content-type"]) == (expected, "image/png")
            assert "immutable" in answer.headers["cache-control"]


@pytest.mark.parametrize("path", ["wrist/7", "wrist/-1", "elsewhere/0"])
def test_a_frame_that_was_not_recorded_is_not_there(client, recorded, path):
    answer = client.get(f"/api/episodes/{recorded[0].info.robot_id}/episode-0/frames/{path}")
    assert answer.status_code == 404
    assert "has no frame" in answer.json()["detail"]


def test_a_film_is_read_from_the_store_once(tmp_path, recorded, monkeypatch):
    reads: list[str] = []
    get = DirectoryStore.get

    def counted(store: DirectoryStore, key: str, *, max_bytes: int | None = None) -> bytes:
        if key.startswith("episodes/"):
            reads.append(key)
        return get(store, key, max_bytes=max_bytes)

    monkeypatch.setattr(DirectoryStore, "get", counted)
    episodes = Episodes(RunDirectory(tmp_path))
    for name in ("episode-0", "episode-1", "episode-0"):
        for step in range(7):
            episodes.frame(f"robot-1/{name}", "wrist", step)
    assert [key.split("/")[-1].split(".")[0] for key in reads] == ["episode-0", "episode-1", "episode-0"]
