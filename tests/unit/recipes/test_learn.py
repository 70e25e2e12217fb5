"""The learning experiment's results: from the evaluations of several seeds to learn.json and its page."""

import json
from pathlib import Path

import pytest

from lwd.recipes import learn as experiment
from lwd.recipes.learn import LearnConfig, learn, write_results

from ..evaluation.synthetic import LONG, SHORT, evaluation

RATES = {"sft": 0.5, "filtered_bc": 0.8, "lwd_offline": 0.6, "lwd_online": 0.9}


@pytest.fixture
def finished(tmp_path: Path) -> LearnConfig:
    """Two seeds with every evaluation; the second is a tenth better, the references a tenth worse."""
    for seed in (0, 1):
        run = tmp_path / "runs" / f"seed-{seed}"
        (run / "store").mkdir(parents=True)
        for method, rate in RATES.items():
            rates = dict.fromkeys((*SHORT, *LONG), rate + 0.1 * seed)
            evaluation(method, rates).save(run / "eval" / f"{method}.json")
            if method in experiment.REFERENCES:
                worse = {task: rate - 0.1 for task, rate in rates.items()}
                evaluation(method, worse).save(run / "references" / f"{method}_reference.json")
    return LearnConfig(root=tmp_path / "runs", out=tmp_path / "results", seeds=(0, 1), episodes=20)


def test_results_pool_seeds_and_pair_episodes(finished: LearnConfig) -> None:
    write_results(finished)
    summary = json.loads((finished.out / "learn.json").read_text())
    assert summary["seeds"] == [0, 1]
    assert set(summary["methods"]) == set(RATES)
    online = summary["methods"]["lwd_online"]
    assert online["mean"] == pytest.approx(0.95)
    assert online["ci95"][0] < 0.95 < online["ci95"][1]
    assert online["episodes"] == 2 * 8 * 20
    assert {seed: entry["mean"] for seed, entry in online["seeds"].items()} == pytest.approx({"0": 0.9, "1": 1.0})
    assert set(online["tasks"]) == {*SHORT, *LONG}
    assert summary["references"]["lwd_online_reference"]["mean"] == pytest.approx(0.85)
    differences = {name: entry["mean"] for name, entry in summary["differences"].items()}
    assert differences == pytest.approx(
        {
            "lwd_offline - sft": 0.1,
            "lwd_online - lwd_offline": 0.3,
            "lwd_online - sft": 0.4,
            "lwd_online - filtered_bc": 0.1,
            "lwd_offline - lwd_offline_reference": 0.1,
            "lwd_online - lwd_online_reference": 0.1,
        }
    )
    page = (finished.out / "learn.md").read_text()
    assert "| **mean** | **0.55" in page
    assert "- LWD online reference: 0.85" in page
    assert "- LWD online - filtered BC: +0.100" in page


def test_results_of_an_unfinished_experiment_hold_what_is_there(finished: LearnConfig) -> None:
    for path in (finished.root / "seed-1").rglob("lwd_online*.json"):
        path.unlink()
    summary = write_results(finished)
    assert list(summary["methods"]["lwd_online"]["seeds"]) == ["0"]
    assert summary["differences"]["lwd_online - sft"]["mean"] == pytest.approx(0.4)


def test_what_is_finished_is_not_run_again(finished: LearnConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[str, ...]] = []
    monkeypatch.setattr(experiment, "_verb", lambda say, *arguments: said.append(arguments))
    learn(finished, lambda text: None)
    assert [arguments[:2] for arguments in said] == [("data", "generate")]
