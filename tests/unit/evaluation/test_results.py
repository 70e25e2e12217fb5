from pathlib import Path

import pytest

from lwd.errors import ConfigError
from lwd.evaluation.results import (
    EpisodeResult,
    EvaluationHeader,
    EvaluationJournal,
    load_result,
    summarise,
)
from lwd.types import Outcome

from .synthetic import evaluation


def _episode(task: str, index: int, outcome: Outcome, steps: int, scores: tuple[float, ...]) -> EpisodeResult:
    return EpisodeResult(
        task=task,
        index=index,
        seed=index,
        instruction="do it",
        outcome=outcome,
        steps=steps,
        sub_step_scores=scores,
    )


def _header(**changes: str) -> EvaluationHeader:
    fields = {"method": "sft", "checkpoint": "p sha256:1", "world": "nominal"} | changes
    return EvaluationHeader(base_seed=0, heldout_instructions=True, **fields)


def test_summary_counts_by_hand() -> None:
    episodes = [
        _episode("short", 0, Outcome.SUCCESS, 10, (1.0,)),
        _episode("short", 1, Outcome.SUCCESS, 20, (0.5,)),
        _episode("long", 0, Outcome.SUCCESS, 90, (1.0, 1.0)),
        _episode("long", 1, Outcome.TIME_LIMIT, 300, (1.0, 0.0)),
        _episode("long", 2, Outcome.FAILURE, 30, ()),
        _episode("long", 3, Outcome.TIME_LIMIT, 300, (0.5, 0.0)),
    ]
    summary = summarise(episodes, {"short": False, "long": True})
    assert summary.tasks["short"].rate == 1.0
    assert summary.tasks["long"].successes == 1
    assert summary.tasks["long"].rate == 0.25
    assert summary.tasks["long"].sub_step_score == pytest.approx((1 + 0.5 + 0 + 0.25) / 4)
    assert summary.mean == pytest.approx((1.0 + 0.25) / 2)
    assert summary.mean_sub_step_score == pytest.approx((0.75 + 0.4375) / 2)
    assert summary.mean_steps_success == pytest.approx((10 + 20 + 90) / 3)
    assert summary.short is not None
    assert summary.short.mean == 1.0
    assert summary.long is not None
    assert summary.long.mean == 0.25


def test_a_group_without_tasks_is_absent() -> None:
    summary = summarise([_episode("long", 0, Outcome.FAILURE, 5, ())], {"long": True})
    assert summary.short is None
    assert summary.mean_steps_success is None


def test_result_survives_its_file(tmp_path: Path) -> None:
    result = evaluation("sft", {"open_drawer": 0.5, "put_in_drawer": 0.25}, episodes=8)
    path = tmp_path / "eval" / "sft.json"
    result.save(path)
    assert load_result(path) == result
    assert [file.name for file in path.parent.iterdir()] == ["sft.json"]


def test_a_file_that_is_no_result_is_named(tmp_path: Path) -> None:
    path = tmp_path / "sft.json"
    with pytest.raises(ConfigError, match=r"does not exist; run `lwd evaluate`"):
        load_result(path)
    path.write_text('{"method": "sft"}')
    with pytest.raises(ConfigError, match="not an evaluation result"):
        load_result(path)


def test_journal_keeps_finished_episodes_and_drops_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "eval" / "sft.jsonl"
    journal = EvaluationJournal(path, _header())
    first, second = (_episode("a", index, Outcome.SUCCESS, 3, (1.0,)) for index in range(2))
    journal.append(first)
    with path.open("ab") as file:
        file.write(b'{"task": "a", "ind')  # the process was killed while it wrote
    again = EvaluationJournal(path, _header())
    assert again.episodes == (first,)
    again.append(second)
    assert EvaluationJournal(path, _header()).episodes == (first, second)


def test_journal_of_another_policy_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sft.jsonl"
    EvaluationJournal(path, _header())
    with pytest.raises(ConfigError, match=r"checkpoint changed.*delete it"):
        EvaluationJournal(path, _header(checkpoint="p sha256:2"))
