"""Metrics rows, also on a disk that gets full."""

import json
import resource
import signal

from lwd.fleet.metrics_file import MetricsFile


def test_rows_are_lines_that_a_restart_continues(tmp_path):
    for snapshot in (1, 2):
        metrics = MetricsFile(tmp_path, "host")
        metrics.write({"edge/episodes": 3.0}, snapshot=snapshot, policy_version=7)
        metrics.close()
    rows = [json.loads(line) for line in (tmp_path / "metrics" / "host.jsonl").read_text().splitlines()]
    assert [(row["process"], row["snapshot"], row["policy_version"]) for row in rows] == [
        ("host", 1, 7),
        ("host", 2, 7),
    ]
    assert rows[0]["metrics"] == {"edge/episodes": 3.0}


def test_a_full_disk_costs_rows_and_cuts_none(tmp_path, caplog):
    metrics = MetricsFile(tmp_path, "host")
    metrics.write({"n": 0.0}, snapshot=0)
    path = tmp_path / "metrics" / "host.jsonl"
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        # Room for half a row: what a full disk does, without one.
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size * 3 // 2, limits[1]))
        for _ in range(3):
            metrics.write({"n": 1.0}, snapshot=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    metrics.write({"n": 2.0}, snapshot=0)
    metrics.close()
    assert [json.loads(line)["metrics"]["n"] for line in path.read_text().splitlines()] == [0.0, 2.0]
    assert [record.message.partition(",")[0] for record in caplog.records] == ["metrics are left out"]
