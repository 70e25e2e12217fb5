"""`lwd data verify`: whatever is damaged is named with a remedy, and what it says that it repairs, it repairs."""

import json
import os
import time

import pytest

from lwd.cli.main import dispatch
from lwd.data.identity import IDENTITY_KEY, found_store, read_identity
from lwd.data.log import LogReader, index_of, log_key
from lwd.data.log_index import index_key
from lwd.data.policies import PolicyPublisher
from lwd.data.quarantine import quarantine, quarantine_key
from lwd.data.repair import repair_store
from lwd.data.revocation import newest_log
from lwd.data.run_store import open_run_store
from lwd.data.verify import verify_store
from lwd.errors import StoreError

from .small_store import commit, content

INDEXED = 8
VERSIONS = 11


@pytest.fixture
def run(tmp_path):
    """Eleven versions: an index at 8, a revocation at 5 and one at 10."""
    store = open_run_store(tmp_path, None)
    found_store(store)
    for number in range(1, VERSIONS + 1):
        commit(store, f"e{number}", revoked={5: ("e2",), 10: ("e3",)}.get(number, ()))
        if number == INDEXED:
            snapshot = newest_log(store).snapshot
            store.create(index_key(INDEXED), index_of(snapshot))
    PolicyPublisher(store).publish(b"weights", update=1, snapshot=1)
    quarantine(store, "episodes/r1/bad.arrow", "NaN")
    return tmp_path


def path(run, key: str):
    return run / "store" / key


def live(run) -> dict[str, tuple[int, str]]:
    reader = LogReader(open_run_store(run, None).inner)
    reader.poll()
    return {item.entry.episode_id: (item.version, item.entry.sha256) for item in reader.snapshot.episodes.values()}


def verify(run, *words: str, capsys=None) -> tuple[int, str]:
    status = dispatch(["data", "verify", "--run", str(run), *words])
    if capsys is None:
        return status, ""
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return status, captured.out + captured.err


def test_verify_of_an_intact_store_finds_nothing(run, capsys):
    status, out = verify(run, capsys=capsys)
    assert (status, "9 episodes of version 11" in out) == (0, True), out
    assert dispatch(["data", "verify", "--run", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["problems"] == []


@pytest.mark.parametrize("how", ["missing", "empty", "torn", "garbage", "another version"])
@pytest.mark.parametrize("version", [1, 4, 5, 8])
def test_verify_makes_an_entry_again_that_an_index_covers(run, capsys, version, how):
    before, file = live(run), path(run, log_key(version))
    data = file.read_bytes()
    if how == "missing":
        file.unlink()
    else:
        other = path(run, log_key(9)).read_bytes()
        file.write_bytes({"empty": b"", "torn": data[: len(data) // 2], "garbage": b"\xff" * 500}.get(how, other))
    status, out = verify(run, capsys=capsys)
    assert status == 1
    assert log_key(version) in out
    assert "\\xff" not in out
    assert not path(run, "damaged").exists()
    status, out = verify(run, "--repair", capsys=capsys)
    assert status == 0, out
    assert live(run) == before
    assert verify(run)[0] == 0
    if how != "missing":
        (aside,) = path(run, "damaged").glob(f"*/{log_key(version)}")
        assert aside.read_bytes() != data
    # The fleet goes on.
    assert commit(open_run_store(run, None), "after") == VERSIONS + 1


def test_verify_fills_a_hole_only_when_it_is_told_to(run, capsys):
    path(run, log_key(9)).unlink()
    status, out = verify(run, "--repair", capsys=capsys)
    assert status == 1
    assert "no index covers it" in out
    assert not path(run, log_key(9)).exists()
    status, out = verify(run, "--repair", "--fill-holes", capsys=capsys)
    assert status == 0, out
    names = live(run)
    assert "e9" not in names
    assert {"e8", "e10", "e11"} <= names.keys()
    assert path(run, "episodes/r1/e9.arrow").exists()  # the coordinator's listing finds it, and commits it again


@pytest.mark.parametrize("how", ["missing", "short", "flipped"])
def test_verify_names_an_episode_that_is_not_what_the_log_says(run, capsys, how):
    file = path(run, "episodes/r1/e7.arrow")
    changed = {"short": content("e7")[:-1], "flipped": b"X" + content("e7")[1:]}
    file.unlink() if how == "missing" else file.write_bytes(changed[how])
    status, out = verify(run, "--repair", capsys=capsys)
    assert status == 1
    assert "episodes/r1/e7.arrow" in out
    assert "lwd data revoke --robot r1 --episode e7" in out.replace("\n", " ")
    assert dispatch(["data", "revoke", "--run", str(run), "--robot", "r1", "--episode", "e7", "--reason", "lost"]) == 0
    assert verify(run)[0] == 0


def test_verify_sets_a_damaged_index_aside_and_writes_a_new_one(run, capsys):
    data = bytearray(path(run, index_key(INDEXED)).read_bytes())
    data[len(data) // 2] ^= 4
    path(run, index_key(INDEXED)).write_bytes(data)
    status, out = verify(run, capsys=capsys)
    assert status == 1
    assert "episodes/" not in out  # it is not blamed on an episode
    assert verify(run, "--repair")[0] == 0
    reader = LogReader(open_run_store(run, None))
    assert reader.load_index() == VERSIONS


def test_verify_repairs_identity_quarantine_and_leftovers(run, capsys):
    known = read_identity(open_run_store(run, None))
    path(run, IDENTITY_KEY).write_bytes(b"\x00")
    path(run, quarantine_key("episodes/r1/bad.arrow")).write_bytes(b"\xff{")
    stale, fresh = path(run, "log/.tmp-stale"), path(run, "log/.tmp-fresh")
    for file in (stale, fresh):
        file.write_bytes(b"x")
    os.utime(stale, (time.time() - 7200,) * 2)
    status, out = verify(run, capsys=capsys)
    assert status == 1
    assert out.count("--repair") >= 3
    assert verify(run, "--repair")[0] == 0
    assert read_identity(open_run_store(run, None)) == known
    assert (stale.exists(), fresh.exists()) == (False, True)


@pytest.mark.parametrize("what", ["000000000000.safetensors", "000000000000.json"])
def test_verify_names_a_damaged_policy(run, capsys, what):
    path(run, f"policies/{what}").write_bytes(b"\xffother")
    status, out = verify(run, "--repair", capsys=capsys)
    assert status == 1
    assert f"policies/{what}" in out
    assert "\\xff" not in out


def test_verify_of_an_unmounted_store_repairs_nothing(run, capsys):
    (run / "store").rename(run / "aside")
    status, out = verify(run, "--repair", capsys=capsys)
    assert (status, "is the disk mounted" in out) == (1, True)
    (run / "store").mkdir()
    status, out = verify(run, "--repair", "--fill-holes", capsys=capsys)
    assert (status, "is the disk mounted" in out.replace("\n", " ")) == (1, True)
    assert list((run / "store").iterdir()) == []
    status, out = verify(run, "--accept-restored", capsys=capsys)
    assert (status, "nothing to accept" in out) == (1, True)


def test_restored_older_store_is_refused_until_it_is_accepted(run, capsys):
    for version in (10, 11):
        path(run, log_key(version)).unlink()
    for _ in range(4):
        status, out = verify(run, "--repair", capsys=capsys)
        assert (status, "--accept-restored" in out) == (1, True)
        with pytest.raises(StoreError, match="ends before version 11"):
            LogReader(open_run_store(run, None)).poll()
    status, out = verify(run, "--accept-restored", capsys=capsys)
    assert status == 0, out
    reader = LogReader(open_run_store(run, None))
    assert [entry.reason for entry in reader.poll()][-1].endswith("(before: version 11 known)")
    assert json.loads((run / "accepted-stores.jsonl").read_text())["known_version"] == 11
    assert verify(run)[0] == 0


def test_repair_that_was_killed_is_repeated(run):
    path(run, log_key(4)).write_bytes(b"")
    store = open_run_store(run, None).inner

    class Killed(Exception):
        pass

    class Dying:
        def __init__(self):
            self.left = 2

        def __getattr__(self, name):
            return getattr(store, name)

        def delete(self, key):
            store.delete(key)
            raise Killed

    found = verify_store(store)
    with pytest.raises(Killed):
        repair_store(Dying(), found.replacements)
    assert not path(run, log_key(4)).exists()
    repair_store(store, verify_store(store).replacements)
    assert verify_store(store).problems == []
