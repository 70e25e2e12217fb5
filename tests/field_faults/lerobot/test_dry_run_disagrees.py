"""Dry run and import give the same verdicts on damaged datasets, and an import of nothing leaves nothing."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.hostile.datasets import DAMAGES
from tests.lerobot.datasets import make_dataset

from lwd.cli.main import dispatch


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("whole") / "arm"
    make_dataset(root, lengths=(12, 9, 7, 8), cameras=("front",), success=(True,) * 4)
    return root


@pytest.fixture(scope="module")
def robot(whole, tmp_path_factory) -> Path:
    """The robot as it is: damaged data must not say what it may do."""
    run = tmp_path_factory.mktemp("robot") / "run"
    assert dispatch(["data", "import", "--run", str(run), "--lerobot", str(whole)]) == 0
    return run / "embodiment.json"


def called(capsys, *words: object) -> tuple[int, dict[str, Any], str]:
    capsys.readouterr()
    status = dispatch([str(word) for word in words])
    printed = capsys.readouterr()
    return status, json.loads(printed.out) if printed.out.strip() else {}, printed.err


@pytest.mark.parametrize(("damage", "bad"), [pytest.param(*value, id=name) for name, value in DAMAGES.items()])
def test_the_verdicts_are_the_same(
    damage: Callable[[Path], object], bad: set[int] | None, whole, robot, tmp_path, capsys
):
    root, run = tmp_path / "arm", tmp_path / "run"
    shutil.copytree(whole, root)
    damage(root)
    words = ("data", "import", "--run", run, "--lerobot", root, "--embodiment", robot, "--json")
    status, dry, why = called(capsys, *words, "--dry-run")
    assert not run.exists()
    if status:
        assert bad is None, why
        assert called(capsys, *words)[0] == 1
        assert not run.exists(), "an import that brings nothing leaves nothing"
        return
    refused = {row["index"]: row["problems"] for row in dry["episodes"] if row["problems"]}
    accepted = {row["episode"] for row in dry["episodes"] if not row["problems"] and not row["already_there"]}
    if bad is not None:
        assert set(refused) == bad, refused
    status, wet, why = called(capsys, *words)
    if not accepted:
        assert status == 1
        assert not run.exists(), "an import that brings nothing leaves nothing"
        return
    assert status == 0, why
    assert {row["index"]: row["problems"] for row in wet["refused"]} == refused
    assert {identity.split("/")[1] for identity in wet["committed"]} == accepted
    assert dispatch(["data", "verify", "--run", str(run)]) == 0, capsys.readouterr()


def test_an_import_of_nothing_does_not_block_the_corrected_one(whole, tmp_path, capsys):
    """State in another unit, with the robot derived from it: nothing of that may stay."""
    root, run = tmp_path / "arm", tmp_path / "run"
    shutil.copytree(whole, root)
    (data,) = root.glob("data/**/*.parquet")
    table = pq.read_table(data)
    place = table.schema.get_field_index("observation.state")
    states = pa.array([[5e6, 0.0, 0.0]] * table.num_rows, table.schema.field(place).type)
    pq.write_table(table.set_column(place, table.schema.field(place), states), data)
    status, _, why = called(capsys, "data", "import", "--run", run, "--lerobot", root)
    assert status == 1
    assert "beyond 1e+06" in why
    assert not run.exists()
    assert called(capsys, "data", "import", "--run", run, "--lerobot", whole, "--control-hz", "10", "--json")[0] == 0


def test_damage_in_the_middle_of_a_video_leaves_out_that_episode_alone(whole, tmp_path, capsys):
    """Only decoding everything finds it, which the dry run does not do: the import says which, and fails."""
    root, run = tmp_path / "arm", tmp_path / "run"
    make_dataset(root, lengths=(40, 9), cameras=("front",), success=(True, True), use_videos=False)
    (data,) = root.glob("data/**/*.parquet")
    table = pq.read_table(data)
    name = "observation.images.front"
    pictures = table[name].to_pylist()
    pictures[20]["bytes"] = pictures[20]["bytes"][:60]
    place = table.schema.get_field_index(name)
    column = pa.array(pictures, table.schema.field(place).type)
    pq.write_table(table.set_column(place, table.schema.field(place), column), data)
    status, found, why = called(capsys, "data", "import", "--run", run, "--lerobot", root, "--json")
    assert status == 1
    assert "1 episodes are damaged" in why
    assert [row["index"] for row in found["refused"]] == [0]
    assert len(found["committed"]) == 1
    assert np.isfinite(found["refused"][0]["index"])
