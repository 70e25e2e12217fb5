import io
import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from lwd.evaluation.report import render_report, write_report
from lwd.evaluation.run_data import read_run
from lwd.evaluation.run_summary import hours_in_words, percent, points, report_json, summarise_run
from lwd.evaluation.svg import GRID, INK, MUTED, SERIES
from lwd.evaluation.table import run_table
from lwd.types import Outcome

from .synthetic import LONG, SHORT, FleetPlan, evaluation, write_fleet, write_metrics, write_policies

_LEARNER = [
    "loss/value",
    "loss/critic",
    "loss/actor",
    "divl/quantile_level",
    "divl/normalized_entropy",
    "critic/q_mean",
    "critic/q_spread",
    "qam/temperature",
    "qam/adjoint_norm",
    "qam/deviation",
    "time/update_s",
]


@pytest.fixture
def full_run(tmp_path: Path) -> Path:
    run = tmp_path / "my-run"
    for method, short, long in (("sft", 0.75, 0.4), ("lwd_offline", 0.8, 0.4), ("lwd_online", 0.95, 0.7)):
        evaluation(method, dict.fromkeys(SHORT, short) | dict.fromkeys(LONG, long)).save(
            run / "eval" / f"{method}.json"
        )
    (run / "config.json").write_text(json.dumps({"note": "<script>alert(1)</script>"}))
    write_metrics(run, "sft", ["loss/flow"])
    write_metrics(run, "offline", _LEARNER, start_s=2_000)
    write_metrics(run, "online", _LEARNER, start_s=3_000, rows=400, every_s=1.0, snapshot_per_row=1)
    plans = [
        FleetPlan(
            outcome=Outcome.SUCCESS if k % 3 else Outcome.FAILURE,
            human_steps=10 * (k % 5 == 0),
            interventions=int(k % 5 == 0),
            policy_version=k,
            committed_at_s=3_010 + 2 * k,
            steps=400,
        )
        for k in range(90)
    ]
    write_fleet(run, plans)
    write_policies(run, [3_000.0 + 2 * k for k in range(90)])
    return run


def test_full_report_is_one_self_contained_page(full_run: Path) -> None:
    path = full_run / "report.html"
    summary = write_report(read_run(full_run), path)
    page = path.read_text()
    assert summary.headline in page
    assert "<script" not in page
    assert not re.search(r"""(src|href)=["'](?!#|data:)""", page)
    assert "@import" not in page
    assert "url(" not in re.sub(r"url\(#", "", page)
    for title in (
        "Success on the same",
        "The fleet while it learned",
        "Training",
        "Data and policies",
        "Settings",
    ):
        assert title in page
    assert [file.name for file in full_run.glob("report*")] == ["report.html"]


def test_figures_follow_the_theme_and_do_not_clash(full_run: Path) -> None:
    page = render_report(read_run(full_run))
    for placeholder in (INK, MUTED, GRID, *SERIES):
        assert placeholder not in page
    assert "var(--ink)" in page
    drawings = re.findall(r"<svg .*?</svg>", page, re.DOTALL)
    assert len(drawings) == 7
    identifiers: list[str] = []
    for drawing in drawings:
        # Namespaces are implied in HTML; XML wants them spelled out.
        spelled = drawing.replace("<svg ", '<svg xmlns:xlink="http://www.w3.org/1999/xlink" ', 1)
        tree = ElementTree.fromstring(spelled)
        identifiers += [element.attrib["id"] for element in tree.iter() if "id" in element.attrib]
        assert tree.attrib["aria-label"]
    assert len(identifiers) == len(set(identifiers))


def test_the_same_run_gives_the_same_page(full_run: Path) -> None:
    assert render_report(read_run(full_run)) == render_report(read_run(full_run))


def test_headline_states_hours_rates_and_the_paired_interval(full_run: Path) -> None:
    # 90 episodes of 40 s: one robot hour. (0.75 + 0.4) / 2 -> 57.5 %, (0.95 + 0.7) / 2 -> 82.5 %.
    summary = summarise_run(read_run(full_run))
    assert re.fullmatch(
        r"In 1\.0 robot hours the fleet went from 5[78] % to 8[23] % mean success "
        r"\(\+25\.0 points, 95 % interval \+\d+\.\d to \+\d+\.\d\)\.",
        summary.headline,
    )
    offline = next(row for row in summary.methods if row.method == "lwd_offline")
    assert offline.gain is not None
    assert offline.gain.mean == pytest.approx(0.025)
    assert summary.fleet is not None
    assert summary.fleet.robots == 2
    assert summary.fleet.interventions_per_hour == pytest.approx(18.0)
    assert summary.fleet.human_share == pytest.approx(10 / 400 / 5)
    assert summary.updates == {"sft": 2_000, "offline": 2_000, "online": 20_000}


def test_headline_admits_what_the_interval_does_not_resolve(tmp_path: Path) -> None:
    sft = evaluation("sft", {"open_drawer": 0.5}, episodes=20)
    sft.save(tmp_path / "eval" / "sft.json")
    flipped = evaluation("lwd_offline", {"open_drawer": 0.55}, episodes=20)
    turned = tuple(
        replace(episode, outcome=Outcome.SUCCESS if episode.index >= 9 else Outcome.FAILURE)
        for episode in flipped.episodes
    )
    replace(flipped, episodes=turned).save(tmp_path / "eval" / "lwd_offline.json")
    headline = summarise_run(read_run(tmp_path)).headline
    assert headline.startswith("LWD offline takes the SFT policy from 50 % to 55 % mean success (+5.0 points")
    assert headline.endswith(": within evaluation noise).")


def test_methods_on_other_starts_are_not_paired(tmp_path: Path) -> None:
    evaluation("sft", {"open_drawer": 0.5}, base_seed=0).save(tmp_path / "eval" / "sft.json")
    evaluation("lwd_online", {"open_drawer": 0.9}, base_seed=1).save(tmp_path / "eval" / "lwd_online.json")
    summary = summarise_run(read_run(tmp_path))
    assert summary.methods[1].gain is None
    assert "not on the same starts" in summary.headline
    assert any("do not compare them" in note for note in summary.missing)


@pytest.mark.parametrize("part", ["config", "evaluation", "sft metrics", "one fleet episode", "only truncated"])
def test_a_run_with_one_part_only_says_what_is_missing(tmp_path: Path, part: str) -> None:
    if part == "config":
        (tmp_path / "config.json").write_text('{"seed": 0}')
    elif part == "evaluation":
        evaluation("sft", {"put_in_drawer": 1.0}, episodes=1).save(tmp_path / "eval" / "sft.json")
    elif part == "sft metrics":
        write_metrics(tmp_path, "sft", ["loss/flow"], rows=1)
    else:
        outcome = Outcome.SUCCESS if part == "one fleet episode" else Outcome.TRUNCATED
        write_fleet(tmp_path, [FleetPlan(outcome=outcome)])
    run = read_run(tmp_path)
    page = render_report(run)
    assert "Not in this run" in page
    missing = summarise_run(run).missing
    assert ("No online training was recorded." in missing) is True
    assert any("fleet episode" in note for note in missing) is ("fleet" not in part and "truncated" not in part)
    json.dumps(report_json(run), allow_nan=False)
    console = Console(file=io.StringIO(), width=100)
    console.print(run_table(run))


def test_text_from_the_run_is_escaped(full_run: Path) -> None:
    page = render_report(read_run(full_run))
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_terminal_table_shows_the_same_numbers(full_run: Path) -> None:
    run = read_run(full_run)
    console = Console(record=True, width=120)
    console.print(run_table(run))
    text = console.export_text()
    assert summarise_run(run).headline in " ".join(text.split())
    assert re.search(r"put_in_drawer +40 % 22-61 +40 % 22-61 +70 % 48-85", text)
    assert "LWD online over SFT: +25.0 points" in text


def test_json_holds_the_numbers_and_no_nan(full_run: Path) -> None:
    content = json.loads(json.dumps(report_json(read_run(full_run)), allow_nan=False))
    assert content["run"] == "my-run"
    assert content["methods"][2]["success"]["mean"] == pytest.approx(0.825)
    assert content["timings"]["upload_to_commit"]["p50_s"] == pytest.approx(0.5)
    assert content["timings"]["publish_to_action"] == {"count": 90, "p50_s": 0.0, "p99_s": 0.0}


def test_words_for_numbers() -> None:
    assert (percent(0.583), percent(float("nan"))) == ("58 %", "–")  # noqa: RUF001
    assert (points(0.2142), points(-0.05)) == ("+21.4", "\N{MINUS SIGN}5.0")
    assert (hours_in_words(1.26), hours_in_words(0.5)) == ("1.3 robot hours", "30 robot minutes")
