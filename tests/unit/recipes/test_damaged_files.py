"""Every damaged file of a run is named, with the remedy that works: no traceback, no raw bytes."""

import pytest

from lwd.cli.main import dispatch
from lwd.data.log import LogReader, log_key
from lwd.data.quarantine import find_quarantined, quarantine, quarantine_key, read_quarantine
from lwd.data.store import DirectoryStore
from lwd.errors import LWDError, ResumeError, StoreError
from lwd.learner.checkpoint import MANIFEST, CheckpointStore, Progress
from lwd.learner.online import SnapshotJournal
from lwd.recipes.run_directory import RunDirectory

from ..data.small_store import commit

GARBAGE = {
    "empty": b"",
    "binary": b"\xff\xfe\x00\x01" * 40,
    "half": b'{"store": "s3://b',
    "list": b"[1, 2]",
    "text": b'"\\u0000x"',
    "deep": b"[" * 200_000,
    "unknown": b'{"surprise": 1}',
}
garbage = pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE.keys())


def message(call) -> str:
    with pytest.raises(LWDError) as found:
        call()
    text = str(found.value)
    assert len(text) < 700
    assert "\\x" not in text
    assert "\n" not in text
    assert text.isprintable()
    return text


@garbage
def test_damaged_config_json_is_named_and_its_remedy_works(tmp_path, data):
    (tmp_path / "config.json").write_bytes(data)
    run = RunDirectory(tmp_path)
    if data == GARBAGE["unknown"]:
        run.write_config("fleet", {})  # any object is one
        return
    assert "config.json is damaged" in message(lambda: run.write_config("fleet", {}))
    assert "delete it" in message(run.read_config)
    (tmp_path / "config.json").unlink()
    run.write_config("fleet", {"a": 1})
    assert run.read_config() == {"fleet": {"a": 1}}


@garbage
def test_damaged_config_json_does_not_end_a_report_with_a_traceback(tmp_path, capsys, data):
    (tmp_path / "config.json").write_bytes(data)
    dispatch(["report", str(tmp_path)])
    assert "Traceback" not in capsys.readouterr().err


@garbage
def test_damaged_run_json_is_named_and_its_remedy_works(tmp_path, data):
    (tmp_path / "run.json").write_bytes(data)
    text = message(lambda: RunDirectory(tmp_path).store_config)
    assert "run.json" in text
    assert "delete it" in text


def test_directory_in_place_of_a_file_is_named(tmp_path):
    (tmp_path / "run.json").mkdir()
    assert "run.json is a directory, not a file: remove it" in message(lambda: RunDirectory(tmp_path).store_config)
    (tmp_path / "run.json").rmdir()
    (tmp_path / "config.json").mkdir()
    assert "config.json is damaged" in message(RunDirectory(tmp_path).read_config)
    (tmp_path / "known-store.json").mkdir()
    assert "known-store.json" in message(lambda: list(RunDirectory(tmp_path).store().list("log")))


@garbage
def test_damaged_manifest_of_a_checkpoint_is_named_with_the_one_before(tmp_path, data):
    checkpoints = CheckpointStore(tmp_path)
    for update in (1, 2):
        progress = Progress(stage="online", update=update, snapshot=1, policy_version=0, finished=False)
        checkpoints.save(progress, policy=b"p", value=None, state={}, config={})
    (tmp_path / "update-000000002" / MANIFEST).write_bytes(data)
    text = message(checkpoints.latest)
    assert "update-000000002/manifest.json is no manifest" in text
    assert "remove it to continue from update-000000001" in text


def test_manifest_with_a_wrong_type_is_refused(tmp_path):
    checkpoints = CheckpointStore(tmp_path)
    progress = Progress(stage="online", update=1, snapshot=1, policy_version=0, finished=False)
    checkpoints.save(progress, policy=b"p", value=None, state={}, config={})
    manifest = tmp_path / "update-000000001" / MANIFEST
    manifest.write_text(manifest.read_text().replace('"snapshot": 1', '"snapshot": "many"'))
    assert "progress.snapshot" in message(checkpoints.latest)


@garbage
def test_damaged_snapshot_journal_is_named(tmp_path, data):
    (tmp_path / "snapshots.jsonl").write_bytes(data + b"\n")
    with pytest.raises(ResumeError, match=r"snapshots\.jsonl is damaged") as found:
        SnapshotJournal(tmp_path / "snapshots.jsonl")
    assert "\\x" not in str(found.value)


@garbage
def test_damaged_log_entry_is_named_with_its_remedy(tmp_path, data):
    store = DirectoryStore(tmp_path)
    commit(store, "e0")
    (tmp_path / log_key(1)).write_bytes(data)
    text = message(LogReader(store).poll)
    assert log_key(1) in text
    assert "lwd data verify" in text


@garbage
def test_damaged_quarantine_record_is_named_with_its_remedy(tmp_path, data):
    store = DirectoryStore(tmp_path)
    for key in ("episodes/r/a.arrow", "episodes/r/b.arrow"):
        quarantine(store, key, "NaN")
    (tmp_path / quarantine_key("episodes/r/a.arrow")).write_bytes(data)
    damaged = quarantine_key("episodes/r/a.arrow")
    text = message(
        lambda: find_quarantined(store, "episodes/r/a.arrow")
    )  # of that episode alone: a shipper's loop goes on
    assert damaged in text
    assert f"lwd data quarantine --release {damaged}" in text
    assert any(damaged in record.reason for record in read_quarantine(store))
    assert find_quarantined(store, "episodes/r/b.arrow") is not None


def test_advice_on_an_empty_store_never_begins_a_known_log_again(tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    assert dispatch(["data", "list", "--run", str(run)]) == 1
    assert "lwd data generate" in capsys.readouterr().err  # a new run
    (run / "checkpoints" / "sft" / "update-000000001").mkdir(parents=True)
    for words in (["data", "list"], ["data", "snapshots"]):
        assert dispatch([*words, "--run", str(run)]) == 1
        error = capsys.readouterr().err
        assert "is the disk mounted?" in error
        assert "generate" not in error
    with pytest.raises(StoreError):
        raise RunDirectory(run).empty_store()
