"""C20: what is missing or damaged in a local dataset is named with its remedy, and never looked for elsewhere."""

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import HfApi
from tests.lerobot.datasets import make_dataset

from lwd.cli.main import dispatch


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("whole") / "made"
    make_dataset(root, cameras=("front",))
    return root


@pytest.fixture
def root(whole, tmp_path, monkeypatch) -> Path:
    def asked(*_: object, **__: object) -> None:
        raise AssertionError("the hub was asked")

    for name in ("list_repo_refs", "snapshot_download", "repo_info", "dataset_info"):
        monkeypatch.setattr(HfApi, name, asked)
    shutil.copytree(whole, tmp_path / "made")
    return tmp_path / "made"


def refused(root: Path, capsys) -> str:
    capsys.readouterr()
    assert dispatch(["data", "import", "--lerobot", str(root), "--run", str(root.parent / "run"), "--dry-run"]) == 1
    return capsys.readouterr().err.strip()


@pytest.mark.parametrize(
    "pattern", ["meta/info.json", "meta/tasks.parquet", "meta/episodes/**/*.parquet", "data/**/*.parquet"]
)
@pytest.mark.parametrize("damage", ["missing", "empty", "cut"])
def test_the_file_is_named(root, capsys, pattern, damage):
    (path,) = root.glob(pattern)
    data = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(b"" if damage == "empty" else data[: len(data) // 2])
    said = refused(root, capsys)
    # Of an index that is gone altogether only its directory is known.
    assert str(path) in said or (damage == "missing" and str(root / "meta" / "episodes") in said)
    assert "whole" in said
    assert "local/" not in said
    assert "Traceback" not in said


def test_another_version_is_named(root, capsys):
    path = root / "meta" / "info.json"
    info = json.loads(path.read_text())
    for version in ("v1.6", "v4.0", None):
        path.write_text(json.dumps(info | {"codebase_version": version}))
        assert f"codebase_version is {version}" in refused(root, capsys)


def test_a_missing_video_keeps_its_episodes_out_and_is_named(root, capsys):
    (path,) = root.glob("videos/**/*.mp4")
    path.unlink()
    said = refused_for_each(root, capsys)
    assert all(f"{path.relative_to(root)} is missing" in problem for problem in said)


def refused_for_each(root: Path, capsys) -> list[str]:
    capsys.readouterr()
    words = ["data", "import", "--lerobot", str(root), "--run", str(root.parent / "run"), "--dry-run", "--json"]
    assert dispatch(words) == 0
    return ["; ".join(row["problems"]) for row in json.loads(capsys.readouterr().out)["episodes"]]


@pytest.mark.parametrize("given", ["/no/such/directory", "./made", "~/made", "a/b/c", "made"])
def test_a_mistyped_directory_is_no_id(tmp_path, capsys, given):
    assert dispatch(["data", "import", "--lerobot", given, "--run", str(tmp_path / "run"), "--dry-run"]) == 1
    assert "is no directory, nor an id on the hub (USER/NAME)" in capsys.readouterr().err
