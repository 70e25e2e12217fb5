"""Keys of cells: they change exactly with what determines the result."""

from dataclasses import replace

import pytest

from lwd.recipes.methods import METHODS
from lwd.recipes.reproduce.cells import Cell
from lwd.recipes.reproduce.durations import Durations
from lwd.recipes.reproduce.engine import Engine
from lwd.recipes.reproduce.plan import make_plan
from lwd.recipes.reproduce.registry import Registry
from lwd.recipes.reproduce.runs import CellRuns
from lwd.recipes.reproduce.scale import SCALES
from lwd.recipes.scene import Recipe, recipe

from .fake_verbs import REGISTRY

SCALE = SCALES["small"]


def keys(scale=SCALE, registry: Registry = REGISTRY) -> dict[str, str]:
    return {cell.name: cell.key for cell in make_plan("all", scale, registry).cells}


def changed(registry: Registry = REGISTRY, scale=SCALE) -> set[str]:
    """Names (of seed 0) whose keys differ from the plain plan's."""
    before, after = keys(), keys(scale, registry)
    assert before.keys() == after.keys()
    return {name.removesuffix("-seed0") for name in before if name.endswith("seed0") and before[name] != after[name]}


def with_recipe(change) -> Registry:
    def changed_recipe(budget: str, method: str) -> Recipe:
        return change(REGISTRY.recipe(budget, method), method)

    return replace(REGISTRY, recipe=changed_recipe)


def test_the_same_plan_has_the_same_keys_and_no_two_cells_share_one() -> None:
    assert keys() == keys()
    assert len(set(keys().values())) == len(keys())


def test_a_setting_of_one_method_changes_its_cells_alone() -> None:
    def slower_fql(base: Recipe, method: str) -> Recipe:
        if method != "fql":
            return base
        algorithm = replace(base.offline.algorithm, actor_learning_rate=1e-5)
        return replace(base, offline=replace(base.offline, algorithm=algorithm))

    assert changed(with_recipe(slower_fql)) == {"fql-offline", "fql-online"}


def test_a_setting_of_lwds_offline_stage_reaches_what_starts_from_it() -> None:
    def longer(base: Recipe, method: str) -> Recipe:
        return replace(base, offline=replace(base.offline, updates=4000)) if method == "lwd" else base

    fleets = {name.removesuffix("-seed0") for name in keys() if "robots" in name and name.endswith("seed0")}
    # The constant level is measured in LWD's offline run.
    assert changed(with_recipe(longer)) == {"lwd-offline", "lwd-online", "constant_level-offline", *fleets}


@pytest.mark.parametrize("part", ["sft", "data"])
def test_what_all_start_from_changes_all(part: str) -> None:
    def other(base: Recipe, method: str) -> Recipe:
        if part == "data":
            return replace(base, data=replace(base.data, demonstrations_per_task=26))
        return replace(base, sft=replace(base.sft, updates=5001))

    everything = {name.removesuffix("-seed0") for name in keys() if name.endswith("seed0")}
    assert changed(with_recipe(other)) == everything


def test_the_fleets_settings_change_online_cells_alone() -> None:
    def helped(base: Recipe, method: str) -> Recipe:
        return replace(base, fleet=replace(base.fleet, operator_allowed_fraction=0.5))

    online = {name.removesuffix("-seed0") for name in keys() if "online" in name and name.endswith("seed0")}
    assert changed(with_recipe(helped)) == online


def test_more_episodes_are_another_evaluation_of_the_same_training() -> None:
    more = replace(SCALE, episodes=26)
    plain, other = (make_plan("all", scale, REGISTRY).cells for scale in (SCALE, more))
    assert all(one.key != two.key for one, two in zip(plain, other, strict=True))
    assert [cell.parents[0].key for cell in plain] == [cell.parents[0].key for cell in other]


def test_what_does_not_determine_a_result_is_not_in_the_key() -> None:
    assert keys(replace(SCALE, device="cuda")) == keys()
    assert keys(replace(SCALE, seeds=(2, 1, 0))) == keys()


def test_a_plan_begins_with_a_whole_picture_of_the_first_seed() -> None:
    names = [cell.name for cell in make_plan("all", SCALE, REGISTRY).cells]
    assert names[:3] == ["sft-seed0", "lwd-offline-seed0", "lwd-online-seed0"]
    assert names[3:5] == ["recap-online-seed0", "hg_dagger-online-seed0"]
    seeds = [name[-1] for name in names if "robots" not in name]
    assert seeds == sorted(seeds)
    first_fleet = next(place for place, name in enumerate(names) if "robots" in name)
    assert all("robots" in name for name in names[first_fleet:])
    assert "constant_level-online-seed0" not in names
    assert "hg_dagger-offline-seed0" not in names


def test_every_method_is_planned_with_settings_of_its_own() -> None:
    cells = make_plan("all", SCALE, REGISTRY).cells
    assert {cell.method for cell in cells} == {"sft", *METHODS}
    trained = [cell.parents[0] for cell in cells if cell.seed == 0 and cell.of in ("offline", "online")]
    for stage in ("offline", "online"):
        whole = {c.method: str(c.settings) for c in trained if c.stage == stage and c.robots in (0, SCALE.robots)}
        assert len(whole) >= 7
        assert len(set(whole.values())) == len(whole)


def test_tables_share_their_cells() -> None:
    tables = {
        table: {cell.key for cell in make_plan(table, SCALE, REGISTRY).cells}
        for table in ("table1", "table2", "table3", "fleet_size")
    }
    everything = {cell.key for cell in make_plan("all", SCALE, REGISTRY).cells}
    assert set().union(*tables.values()) == everything
    whole_fleet = tables["table1"] & tables["fleet_size"]
    assert len(whole_fleet) == len(SCALE.seeds)


def test_the_small_budget_fits_into_a_night(tmp_path) -> None:
    """At most 14 hours of two cores for everything and 40 minutes for a cell, by the recorded durations."""
    plan = make_plan("all", SCALE, REGISTRY)
    runs = CellRuns(root=tmp_path, scale=SCALE, registry=REGISTRY, workers=2)
    todo = Engine(plan, runs, tmp_path, jobs=2).todo()
    durations = Durations(SCALE)
    total_s = durations.total_s(todo, jobs=2)
    assert total_s is not None
    assert 6 * 3600 < total_s < 14 * 3600
    assert max(durations.estimate_s(cell) or 0.0 for cell in todo) < 40 * 60


def test_estimates_follow_what_is_measured() -> None:
    durations = Durations(SCALE)
    cell = Cell(stage="offline", method="qam", seed=0, settings={})
    other = replace(cell, method="fql")
    durations.note(cell, 1000.0)
    assert durations.estimate_s(replace(cell, seed=1)) == 1000.0
    assert durations.estimate_s(other) == 1000.0
    durations.note(other, 500.0)
    assert durations.estimate_s(other) == 500.0
    assert durations.estimate_s(replace(cell, method="recap")) == 750.0


def test_estimates_of_a_shorter_online_stage_are_shorter() -> None:
    durations = Durations(SCALE)
    whole = Cell(stage="online", method="lwd", seed=0, settings={}, robots=16, env_steps=150_000)
    durations.note(whole, 425.0)
    assert durations.estimate_s(replace(whole, env_steps=75_000, robots=8)) == pytest.approx(225.0)


def test_nothing_is_known_about_a_budget_that_nobody_has_run() -> None:
    durations = Durations(SCALES["full"])
    assert durations.estimate_s(Cell(stage="sft", method="sft", seed=0, settings={})) is None
    assert recipe("large").sft.updates > recipe("full").sft.updates
