"""The page and its JSON: from every record, from some, from none."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from lwd.errors import ConfigError
from lwd.evaluation.experiment.page import value_figures_of, write_page, write_value_figures
from lwd.evaluation.experiment.records import load_record, task_episodes
from lwd.evaluation.experiment.scores import Results
from lwd.evaluation.svg import Drawing

from ..synthetic import LONG, SHORT, evaluation
from .constructed import SETTING, ladder, record


def page_of(out: Path, records) -> str:
    write_page(Results(SETTING, records), out)
    return (out / "experiment.md").read_text()


def row(page: str, name: str) -> list[str]:
    line = next(line for line in page.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of an experiment in which nothing is missing."""
    out = tmp_path_factory.mktemp("whole")
    page_of(out, everything())
    return out


def everything():
    records = ladder()
    for seed in range(3):
        for stage in ("offline", "online"):
            records += [record(m, stage, seed) for m in ("lwd_paper", "qam", "best_of_n", "fql", "expectile")]
        records += [record("recap", "offline", seed), record("constant_level", "offline", seed)]
        for robots in (1, 2, 4, 8):
            rate = 0.4 + 0.05 * robots
            for env_steps in (150_000 * robots // 16, 150_000):
                records.append(record("lwd", "online", seed, short=rate, long=rate, robots=robots, env_steps=env_steps))
    return records


def test_a_whole_experiment(whole: Path) -> None:
    page = (whole / "experiment.md").read_text()
    online = row(page, "LWD online")
    assert [cell[:6] for cell in online[1:4]] == ["0.85 (", "0.80 (", "0.90 ("]
    assert online[4:] == ["3", "0.95"]
    assert row(page, "HG-DAgger online")[-1] == "0.85"
    assert row(page[page.index("Task by task") :], "LWD online")[1:] == ["0.80"] * 4 + ["0.90"] * 4 + ["0.85"]
    assert "LWD online succeeds more often than LWD offline: **holds**. +0.250" in page
    assert "LWD online succeeds more often than RECAP with as many robot hours: **does not hold**" in page
    assert row(page, "DIVL")[1].endswith("[0.97]")
    # The mean of 0.4, 0.401, ..., 0.459 is 0.4295.
    assert row(page, "constant")[1] in ("0.429", "0.430")
    assert row(page, "1")[1] == "9,375"
    assert row(page, "LWD")[4:6] == ["150", "200 → 105"]
    assert "No cell failed." in page
    assert "not run yet" not in page
    for name in re.findall(r"\]\((experiment/[^)]+)\)", page):
        ElementTree.parse(whole / name)  # well-formed
    drawn = {path.name for path in (whole / "experiment").glob("*.svg")}
    assert drawn == {"success.svg", "learning-curves.svg", "value-training.svg", "fleet-size.svg"}
    assert "var(--" in (whole / "experiment" / "success.svg").read_text()


def test_the_json_holds_cells_and_claims(whole: Path) -> None:
    content = json.loads((whole / "experiment.json").read_text())
    assert len(content["cells"]) == len(everything())
    online = next(cell for cell in content["cells"] if cell["name"] == "lwd-online-16-150000-seed0")
    assert online["episodes"] == 160
    assert online["successes"]["press_button"] == 16
    assert online["fleet_steps"] == 150_000
    claim = next(item for item in content["claims"] if item["name"] == "online > offline")
    assert claim["verdict"] == "holds"
    assert claim["effect"]["mean"] == pytest.approx(0.25)
    assert claim["seeds"] == [0, 1, 2]


def test_nothing_yet(tmp_path: Path) -> None:
    page = page_of(tmp_path, [])
    assert "40 of 40 cells are missing, about 3.0 hours of two cores are left" in page
    assert row(page, "LWD online")[1:5] == ["–"] * 4  # noqa: RUF001
    assert page.count("not run yet.") > 15
    assert "![" not in page
    assert "nan" not in page


@pytest.mark.parametrize("missing", ["sft", "lwd-offline", "lwd-online"])
def test_any_part_of_it(tmp_path: Path, missing: str) -> None:
    page = page_of(tmp_path, [item for item in ladder((0, 1)) if not item.name.startswith(missing)])
    assert "nan" not in page
    name = {"sft": "SFT", "lwd-offline": "LWD offline", "lwd-online": "LWD online"}[missing]
    assert row(page, name)[1:5] == ["–"] * 4  # noqa: RUF001
    assert row(page, "RECAP online")[1].startswith("0.95")


def test_what_failed_is_shown(tmp_path: Path) -> None:
    page = page_of(tmp_path, [*ladder((0,)), record("qam", "offline", 0, error="loss/value is nan at update 7")])
    assert "- qam-offline-0-0-seed0: loss/value is nan at update 7" in page
    assert "34 of 40 cells are missing" in page


def test_why_the_level_does_not_help_is_looked_into(tmp_path: Path) -> None:
    records = [record("lwd", "offline", seed) for seed in range(3)]
    records += [record("constant_level", "offline", seed) for seed in range(3)]
    page = page_of(tmp_path, records)
    assert "offline: normalised entropy went from 0.60 to 0.54 (the paper's from about 0.55 to 0.20)" in page
    assert "the level's batch mean moved by 0.05" in page
    better = [item for item in records if item.method != "lwd"]
    better += [record("lwd", "offline", seed, short=0.9, long=0.9) for seed in range(3)]
    assert "not shown to help" not in page_of(tmp_path, better)


def test_what_the_level_changes_stands_beside_what_it_must_stand_out_from(tmp_path: Path) -> None:
    records = [record(method, "offline", seed) for method in ("lwd", "constant_level") for seed in range(3)]
    run = {
        "bootstrapped": 0.9,
        "entropy_std": 0.15,
        "level_mean": 0.45,
        "level_std": 0.045,
        "value_std": 0.04,
        "shift_mean": -0.004,
        "td_error_rms": 0.07,
    }
    for shift, words in ((0.005, "small beside the critics' own error"), (0.06, "not small beside")):
        runs = [{**run, "seed": seed, "shift_abs": shift} for seed in range(3)]
        (tmp_path / "quantile_level.json").write_text(json.dumps({"keys": ["a"], "states": 4096, "runs": runs}))
        page = page_of(tmp_path, records)
        assert f"moves a bootstrapped target by {shift:.4f} in size, -0.0040 on average" in page
        assert words in page


def test_figures_of_single_episodes_are_kept_between_pages(tmp_path: Path) -> None:
    drawing = Drawing(
        svg='<svg viewBox="0 0 1 1" role="img"><g/></svg>', caption="Open drawer, success.", description="d"
    )
    write_value_figures([drawing], tmp_path, key="0123", about="Episodes of seed 0.")
    assert value_figures_of(tmp_path) == "0123"
    page = page_of(tmp_path, ladder((0,)))
    assert "Episodes of seed 0." in page
    assert "(experiment/value-episode-1.svg)" in page
    assert "Open drawer, success." in page


def test_the_search_and_its_cost(tmp_path: Path) -> None:
    runs = [
        {
            "method": "lwd",
            "setting": "n_step_long",
            "value": 3,
            "seed": 0,
            "success": 0.745,
            "episodes": 200,
            "minutes": 30,
        },
        {
            "method": "fql",
            "setting": "bc_weight",
            "value": 10,
            "seed": 0,
            "success": None,
            "episodes": 0,
            "minutes": 15,
        },
    ]
    (tmp_path / "search.json").write_text(json.dumps(runs))
    page = page_of(tmp_path, [])
    assert "2 runs, 0.8 hours" in page
    assert row(page, "LWD")[1:] == ["n step long", "3", "0", "0.745", "200", "30"]
    (tmp_path / "search.json").write_text('[{"method": "lwd"}]')
    with pytest.raises(ConfigError, match=r"search.json: 0.setting"):
        page_of(tmp_path, [])


def test_the_check_from_outside(tmp_path: Path) -> None:
    check = {
        "data": "Our own play data.",
        "benchmarks": [
            {
                "env": "scene-task2",
                "method": "qam",
                "seed": 0,
                "updates": 100_000,
                "extraction": "best_of_n",
                "temperature_fraction": 1.5,
                "success": 0.9,
                "episodes": 50,
                "ci95": [0.8, 0.96],
                "score": 0.951,
                "published": [{"method": "QAM", "mean": 0.98, "pm": 0.03}, {"method": "FQL", "mean": 0.71, "pm": 0.1}],
            }
        ],
    }
    (tmp_path / "ogbench_check.json").write_text(json.dumps(check))
    page = page_of(tmp_path, [])
    assert "Our own play data." in page
    assert row(page, "scene-task2")[1:] == [
        "qam",
        "best of n",
        "1.5",
        "0",
        "100,000",
        "0.90 (0.80-0.96)",
        "0.95",
        "50",
        "QAM 0.98 ± 0.03; FQL 0.71 ± 0.1",
    ]


def test_speed_is_shown_beside_the_floors(tmp_path: Path) -> None:
    entry = {"value": 820.0, "unit": "env steps/s", "baseline": "the bare simulator: 955/s", "ratio": 0.86}
    (tmp_path / "bench.json").write_text(json.dumps({"fleet/env-steps": entry}))
    floors = {"sft_updates_per_s": 40.0, "lwd_updates_per_s": 36.0, "env_steps_per_s": 1_000.0}
    (tmp_path / "floors.json").write_text(json.dumps(floors))
    page = page_of(tmp_path, ladder((0,)))
    assert "820 env steps/s, **0.86** of the bare simulator: 955/s" in page
    speed = page[page.index("## Speed") :]
    assert row(speed, "LWD online")[1:] == ["18.0", "0.50", "350", "0.35", "7.2", "1.5"]
    assert row(speed, "SFT")[1:] == ["18.0", "0.45", "–", "–", "7.2", "1.5"]  # noqa: RUF001
    # Of another method's update the floor is not known.
    assert row(speed, "RECAP online")[2] == "–"  # noqa: RUF001
    assert "The longest cell trained for 7.2 minutes." in page


def test_records_survive_the_disk(tmp_path: Path) -> None:
    original = record("lwd", "online", 1)
    path = original.save(tmp_path)
    assert load_record(path) == original
    assert path.name == f"{original.name}-{original.key[:12]}.json"
    path.write_text("{}")
    with pytest.raises(ConfigError, match="delete it"):
        load_record(path)


def test_an_evaluations_episodes_in_a_record() -> None:
    result = evaluation("lwd", {SHORT[0]: 0.5, LONG[0]: 0.25})
    found = task_episodes(result)
    assert sum(found[SHORT[0]].successes) == 10
    assert found[LONG[0]].long_horizon
    assert found[LONG[0]].steps[:3] == (40, 41, 42)
    assert found[LONG[0]].sub_steps[:6] == (1.0, 1.0, 1.0, 1.0, 1.0, 0.5)
