"""The S3 store when the network or the settings are not as one would wish: real server, real sockets."""

import contextlib
import dataclasses
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from lwd.data.store import Created, StoreConfig, open_store
from lwd.errors import ConfigError, ObjectExists, StoreError

from ...seaweedfs import BUCKET, SeaweedServer

QUICK = {"region": "us-east-1", "access_key_id": "a", "secret_access_key": "b", "allow_http": "true"}


class Proxy:
    """Passes bytes on to a server; on request it keeps the answers to itself: hangs up, or says nothing."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = [self._listener]
        self.mode = "pass"
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._start(self._accept)

    def close(self) -> None:
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._port))
                self._sockets += [client, server]
                self._start(lambda client=client, server=server: self._pump(client, server, answers=False))
                self._start(lambda client=client, server=server: self._pump(server, client, answers=True))

    def _pump(self, source: socket.socket, target: socket.socket, *, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if not answers or self.mode == "pass":
                    target.sendall(data)
                elif self.mode == "hang up":
                    break
            if answers:
                target.shutdown(socket.SHUT_RDWR)

    @staticmethod
    def _start(work) -> None:
        threading.Thread(target=work, daemon=True).start()


@pytest.fixture
def proxy(seaweed) -> Iterator[Proxy]:
    proxy = Proxy(int(seaweed.endpoint.rpartition(":")[2]))
    yield proxy
    proxy.close()


@pytest.mark.parametrize("mode", ["hang up", "say nothing"])
def test_an_object_whose_answer_was_lost_is_recognised_by_the_retry(seaweed, proxy, mode):
    config = seaweed.store_config(uuid.uuid4().hex)
    behind = dataclasses.replace(config, options={**config.options, "endpoint": proxy.address, "timeout": "2s"})
    direct, store = open_store(config), open_store(behind)
    assert store.create("before", b"x") is Created.NEW
    proxy.mode = mode
    started_s = time.monotonic()
    with pytest.raises(StoreError, match="check network and credentials"):
        store.create("k", b"payload")
    assert time.monotonic() - started_s < 30
    assert direct.get("k") == b"payload"
    proxy.mode = "pass"
    assert store.create("k", b"payload") is Created.IDENTICAL
    with pytest.raises(ObjectExists):
        store.create("k", b"other bytes")


def test_settings_come_from_the_environment(seaweed, monkeypatch):
    for name, value in seaweed.environment.items():
        monkeypatch.setenv(name, value)
    store = open_store(f"s3://{BUCKET}/{uuid.uuid4().hex}")
    assert store.create("k", b"x") is Created.NEW
    assert store.get("k") == b"x"


def test_wrong_credentials_are_a_store_error(seaweed):
    config = seaweed.store_config("x")
    wrong = dataclasses.replace(config, options={**config.options, "secret_access_key": "wrong"})
    with pytest.raises(StoreError, match="credentials"):
        open_store(wrong).create("k", b"x")


def calls(store) -> list:
    return [lambda: store.create("k", b"x"), lambda: store.get("k"), lambda: list(store.list("k"))]


def test_a_dead_server_is_an_error_within_seconds():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
    store = open_store(StoreConfig(url="s3://bucket/prefix", options={**QUICK, "endpoint": endpoint}))
    started_s = time.monotonic()
    for call in calls(store):
        with pytest.raises(StoreError, match="s3://bucket/prefix"):
            call()
    assert time.monotonic() - started_s < 20


def test_a_server_that_says_nothing_is_an_error_after_the_timeout():
    """Reads are tried again, up to four times in all."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        options = {**QUICK, "endpoint": endpoint, "timeout": "500ms"}
        store = open_store(StoreConfig(url="s3://bucket/prefix", options=options))
        started_s = time.monotonic()
        for call in calls(store):
            with pytest.raises(StoreError):
                call()
        assert 1.0 < time.monotonic() - started_s < 30


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("s3://bucket", {"nonsense": "1"}, r"\['nonsense'\] are wrong"),
        ("s3://bucket", {"timeout": "soon"}, "soon"),
        ("s3://bucket", {"http2_keep_alive_timeout": "5s"}, "http2_keep_alive_timeout"),  # obstore panics
        ("s3:///prefix", {}, "give a directory or s3://bucket/prefix"),
        ("https://somewhere/bucket", {}, "is not supported: give a directory"),
        ("memory:///", {}, "is not supported: give a directory"),
        ("s3://bucket", {"endpoint": "http://somewhere"}, "is not encrypted"),
        ("/some/directory", {"region": "us-east-1"}, "is a directory"),
    ],
)
def test_wrong_settings_are_explained(url, options, message, monkeypatch):
    monkeypatch.delenv("AWS_ALLOW_HTTP", raising=False)
    with pytest.raises(ConfigError, match=message):
        open_store(StoreConfig(url=url, options=options))


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("s3://bucket", {"secret_access_key": "hunter2"}),
        ("s3://bucket", {"AWS_SECRET_ACCESS_KEY": "hunter2"}),
        ("s3://bucket", {"access_key_id": "hunter2"}),
        ("s3://bucket", {"session_token": "hunter2"}),
        ("s3://bucket", {"sse_customer_key_base64": "hunter2"}),
        ("s3://bucket", {"proxy_url": "http://me:hunter2@proxy"}),
        ("s3://me:hunter2@bucket", {}),
    ],
)
def test_secrets_are_refused_and_not_repeated(url, options):
    config = StoreConfig(url=url, options=options)
    with pytest.raises(ConfigError, match="environment") as refused:
        config.require_no_secret()
    assert "hunter2" not in str(refused.value)


def test_ordinary_settings_are_no_secrets():
    options = {"endpoint": "https://s3.example.com:8333", "region": "eu-1", "timeout": "60s"}
    StoreConfig(url="s3://bucket/prefix", options=options).require_no_secret()
    StoreConfig(url="/data/a@b").require_no_secret()


@pytest.mark.faults
def test_ten_thousand_keys_are_listed_completely_and_sorted(seaweed):
    store = open_store(seaweed.store_config(uuid.uuid4().hex))
    keys = [f"log/d{number % 64}/{number:06d}" for number in range(10_500)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: store.create(key, b"x" * 100), keys))
    assert [item.key for item in store.list("log")] == sorted(keys)
    middle = sorted(keys)[5000]
    assert [item.key for item in store.list("log", start_after=middle)] == sorted(keys)[5001:]


@pytest.mark.faults
def test_objects_survive_kill_9_of_the_server(tmp_path):
    server = SeaweedServer(tmp_path)
    server.start()
    try:
        store = open_store(server.store_config("p"))
        stored = {f"e/{number}": os.urandom(20_000) for number in range(200)}
        for key, data in stored.items():
            store.create(key, data)
        server.kill()
        started_s = time.monotonic()
        with pytest.raises(StoreError):
            store.get("e/0")
        assert time.monotonic() - started_s < 20
        server.start()
        assert {key: store.get(key) for key in stored} == stored
    finally:
        server.kill()
