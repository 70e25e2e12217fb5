"""The engine: what is finished is kept, what was stopped goes on, what fails is shown, cores are shared."""

from dataclasses import replace
from pathlib import Path

import pytest

from lwd.recipes.reproduce.engine import Engine
from lwd.recipes.reproduce.plan import TableName, make_plan
from lwd.recipes.reproduce.runs import CellRuns
from lwd.recipes.reproduce.scale import SCALES

from .fake_verbs import REGISTRY, FakeVerbs

SCALE = SCALES["smoke"]


def engine(
    tmp_path: Path,
    verbs: FakeVerbs,
    *,
    table: TableName = "table1",
    root: str = "root",
    retry_failed: bool = False,
    scale=SCALE,
) -> Engine:
    runs = CellRuns(root=tmp_path / root, scale=scale, registry=REGISTRY, workers=2)
    return Engine(
        make_plan(table, scale, REGISTRY),
        runs,
        tmp_path / "out",
        jobs=2,
        start=verbs,
        poll_s=0.0,
        retry_failed=retry_failed,
    )


def run(engine: Engine) -> bool:
    return engine.run(stop=lambda: False)


def test_every_cell_runs_once_and_leaves_its_record(tmp_path: Path) -> None:
    verbs = FakeVerbs()
    first = engine(tmp_path, verbs, table="all")
    assert run(first)
    assert len(verbs.of("data")) == len(verbs.of("sft")) == 1
    assert len(set(verbs.calls)) == len(verbs.calls)
    files = {path.name for path in (tmp_path / "out" / "cells").iterdir()}
    assert files == {f"{cell.name}-{cell.key[:12]}.json" for cell in first.plan.cells}
    online = next(record for record in first.records.values() if record.name == "lwd-online-seed0")
    assert online.training is not None
    assert online.training.fleet is not None
    assert online.training.fleet.episodes == 40
    assert online.training.updates == 2_000
    assert online.training.updates_per_s == pytest.approx(10.0)
    assert online.episodes == len(SCALE.tasks) * SCALE.episodes


def test_a_finished_cell_is_never_run_again(tmp_path: Path) -> None:
    run(engine(tmp_path, FakeVerbs(), table="table2"))
    again = FakeVerbs()
    assert run(engine(tmp_path, again, table="table2"))
    assert again.calls == []
    # On a machine that has the records but none of the runs, either.
    assert run(engine(tmp_path, again, table="table2", root="elsewhere"))
    assert again.calls == []


def test_a_missing_record_runs_what_it_needs_and_no_more(tmp_path: Path) -> None:
    run(engine(tmp_path, FakeVerbs(), table="table2"))
    (record,) = (tmp_path / "out" / "cells").glob("expectile-online-seed0-*")
    record.unlink()
    here = FakeVerbs()
    run(engine(tmp_path, here, table="table2"))
    assert [call[0] for call in here.calls] == ["evaluate"]
    record.unlink()
    elsewhere = FakeVerbs()
    run(engine(tmp_path, elsewhere, table="table2", root="elsewhere"))
    assert [call[0] for call in elsewhere.calls] == ["data", "sft", "offline", "up", "evaluate"]


def test_the_constant_level_is_the_adaptive_runs_mean(tmp_path: Path) -> None:
    verbs = FakeVerbs()
    first = engine(tmp_path, verbs, table="table3")
    run(first)
    adaptive = next(record for record in first.records.values() if record.method == "lwd")
    assert adaptive.training is not None
    (constant,) = [call for call in verbs.of("offline") if "--quantile-level" in call]
    level = float(constant[constant.index("--quantile-level") + 1])
    assert level == adaptive.training.means["divl/quantile_level"]
    assert 0.3 < level < 0.7
    # Its record alone gives the level: nothing of LWD is run again for it.
    next((tmp_path / "out" / "cells").glob("constant_level-*")).unlink()
    elsewhere = FakeVerbs()
    run(engine(tmp_path, elsewhere, table="table3", root="elsewhere"))
    assert [call[0] for call in elsewhere.calls] == ["data", "sft", "offline", "evaluate"]


def test_an_interrupted_cell_goes_on_and_its_time_adds_up(tmp_path: Path) -> None:
    slow = FakeVerbs(slow="up")
    stopped = engine(tmp_path, slow, table="table2")
    looks = iter(range(10_000))
    assert not stopped.run(stop=lambda: bool(slow.of("up")) and next(looks) > 3)
    begun = [cell for cell in stopped.todo() if cell.stage == "online"]
    assert any(stopped.runs.attempts(cell).seconds > 0 for cell in begun)
    kept = len(stopped.records)
    assert kept >= 2
    quick = FakeVerbs()
    resumed = engine(tmp_path, quick, table="table2")
    assert len(resumed.records) == kept
    assert run(resumed)
    assert len(quick.of("sft")) == 0
    # The same command line in the same directory: the verb continues from its checkpoint.
    assert slow.of("up")[0] in quick.of("up")


def test_stopped_in_its_last_cell_it_is_not_done(tmp_path: Path) -> None:
    slow = FakeVerbs(slow="evaluate")
    scale = replace(SCALE, fleet_sizes=(4,))
    last = engine(tmp_path, slow, table="fleet_size", scale=scale)
    assert len(last.plan.cells) == 1
    assert not last.run(stop=lambda: bool(slow.of("evaluate")))
    assert run(engine(tmp_path, FakeVerbs(), table="fleet_size", scale=scale))


def test_a_failed_cell_is_shown_with_its_error_and_the_others_go_on(tmp_path: Path) -> None:
    broken = FakeVerbs(broken="qam")
    first = engine(tmp_path, broken)
    assert run(first)
    failed = {record.name: record.error for record in first.records.values() if record.failed}
    assert set(failed) == {"qam-offline-seed0", "qam-online-seed0"}
    assert all("loss/value is nan at update 7" in str(error) for error in failed.values())
    assert len(first.records) == len(first.plan.cells)
    # Records are committed: no path of this machine.
    assert all(str(tmp_path) not in str(error) for error in failed.values())
    again = FakeVerbs()
    run(engine(tmp_path, again))
    assert again.calls == []
    run(engine(tmp_path, again, retry_failed=True))
    assert {call[call.index("--method") + 1] for call in again.calls} == {"qam"}
    assert not any(record.failed for record in engine(tmp_path, again).records.values())


def test_two_one_core_cells_run_side_by_side_and_nothing_beside_a_fleet(tmp_path: Path) -> None:
    running: list[tuple[str, ...]] = []
    verbs = FakeVerbs()
    first = engine(tmp_path, verbs, table="table2", scale=replace(SCALE, seeds=(0, 1)))
    most: dict[bool, int] = {True: 0, False: 0}

    def start(arguments, log):
        running[:] = [item.cell.stage for item in first._running]
        verb = arguments[0]
        alone = verb not in ("sft", "offline")
        most[alone] = max(most[alone], len(running) + 1)
        assert not any(stage not in ("sft", "offline") for stage in running)
        return verbs(arguments, log)

    first._start = start
    assert run(first)
    assert most == {True: 1, False: 2}


def test_a_verb_that_was_interrupted_by_somebody_else_stops_the_rest(tmp_path: Path) -> None:
    verbs = FakeVerbs(interrupted="offline")
    first = engine(tmp_path, verbs, table="table2")
    assert not run(first)
    assert not any(record.failed for record in first.records.values())


def test_runs_share_checkpoints_and_store_but_no_fleet_data(tmp_path: Path) -> None:
    first = engine(tmp_path, FakeVerbs(), table="table2")
    run(first)
    root = tmp_path / "root"
    policies = [
        next(root.glob(f"{stage}-{method}-s0-*")) / "checkpoints/sft/update-000002000/policy.safetensors"
        for stage, method in (("sft", "sft"), ("offline", "lwd"), ("online", "expectile"))
    ]
    assert len({path.stat().st_ino for path in policies}) == 1
    data = next(root.glob("data-*")) / "store"
    assert not list(data.rglob("log/*.json"))
