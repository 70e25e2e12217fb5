"""The search for settings on validation starts."""

import json

import pytest

from lwd.errors import ConfigError
from lwd.recipes.methods import METHODS, method_recipe
from lwd.recipes.reproduce.scale import EVALUATION_SEED
from lwd.recipes.reproduce.search import CANDIDATES, RESULTS, VALIDATION_SEED, Candidate, SearchConfig, run_search
from lwd.recipes.run_directory import RunDirectory
from lwd.recipes.stages import run_sft

from ....tiny_run import RECIPE, commit, make_data


@pytest.mark.parametrize("candidate", CANDIDATES, ids=lambda candidate: candidate.name)
def test_a_candidate_changes_its_setting_alone(candidate):
    before = method_recipe("full", candidate.method).offline
    after = candidate.apply(before)
    part = after.algorithm if hasattr(after.algorithm, candidate.setting) else after
    assert getattr(part, candidate.setting) == candidate.value
    default = Candidate(
        method=candidate.method,
        setting=candidate.setting,
        value=getattr(before.algorithm if part is after.algorithm else before, candidate.setting),
    )
    assert default.apply(after) == before


def test_the_search_knows_its_methods_and_stays_off_the_tables_starts():
    assert {candidate.method for candidate in CANDIDATES} <= METHODS.keys()
    assert VALIDATION_SEED != EVALUATION_SEED
    assert len({candidate.name for candidate in CANDIDATES}) == len(CANDIDATES)


def test_a_setting_that_does_not_exist_is_named():
    unknown = Candidate(method="lwd", setting="magic", value=1)
    with pytest.raises(ConfigError, match="setting is 'magic'"):
        unknown.apply(method_recipe("full").offline)


@pytest.mark.learning  # eight evaluation episodes per candidate
def test_every_candidate_is_run_once(tmp_path):
    run = RunDirectory(tmp_path / "run")
    commit(run, make_data())
    run_sft(run, RECIPE.sft, seed=3)
    config = SearchConfig(run=run.path, root=tmp_path / "search", out=tmp_path / "out", episodes=1, jobs=1)
    candidates = [
        Candidate(method="fql", setting="distillation_weight", value=1.0),
        Candidate(method="lwd", setting="n_step_long", value=2),
    ]
    said: list[str] = []
    assert not run_search(config, RECIPE, candidates, say=said.append, stop=lambda: True)
    assert run_search(config, RECIPE, candidates, say=said.append)
    assert run_search(config, RECIPE, candidates, say=said.append)
    rows = json.loads((tmp_path / "out" / RESULTS).read_text())
    assert [(row["method"], row["value"], row["episodes"]) for row in rows] == [("fql", 1.0, 8), ("lwd", 2, 8)]
    assert len(said) == 2
