"""The benchmarks run, and what they count is right. (Their numbers are for `make bench`.)"""

import json
import time

import pytest
import torch
from torch.nn import functional as F

from lwd.recipes.bench_fleet import bench_entries as fleet_entries
from lwd.recipes.bench_fleet import measure_fleet
from lwd.recipes.bench_learner import (
    LearnerShape,
    bench_entries,
    build_algorithm,
    build_sampler,
    measure_learner,
    measure_sampling,
)
from lwd.recipes.bench_result import BenchEntry, write_entries
from lwd.recipes.matrix_products import Floor, matrix_products, time_in_place_s, total_flops

SHAPE = LearnerShape(depth=1, width=16, batch_size=4, anchor_s=0.5, anchor_goal=2.0)


def test_a_linear_layer_forward_and_backward_is_three_products():
    x, weight, bias = (torch.randn(shape, requires_grad=True) for shape in ((7, 5), (3, 5), (3,)))
    products = matrix_products(lambda: F.linear(x, weight, bias).square().sum().backward())
    assert products.total() == 3
    assert total_flops(products) == 3 * 2 * 7 * 5 * 3


def test_batched_products_and_bfloat16_are_counted():
    left, right = torch.randn(4, 2, 3).bfloat16(), torch.randn(4, 3, 5).bfloat16()
    (product,) = matrix_products(lambda: left @ right)
    assert product.flops == 2 * 4 * 2 * 3 * 5
    assert product.dtype == torch.bfloat16


def test_the_floor_keeps_each_products_best_and_weighs_it_with_its_count():
    weight, x = torch.randn(8, 8), torch.randn(4, 8)
    floor = Floor(matrix_products(lambda: [F.linear(x, weight) for _ in range(6)]))
    floor.measure()
    first_s = floor.time_s
    floor.measure()
    assert 0 < floor.time_s <= first_s
    assert floor.flops_per_s == pytest.approx(6 * 2 * 4 * 8 * 8 / floor.time_s)


def test_products_in_place_are_timed_without_what_stands_between_them():
    weight, x = torch.randn(64, 64), torch.randn(64, 64)
    assert time_in_place_s(lambda: time.sleep(0.05)) == 0
    elapsed_s = time_in_place_s(lambda: (time.sleep(0.05), F.linear(x, weight)))
    assert 0 < elapsed_s < 0.05


def test_the_updates_arithmetic_grows_with_the_flow_steps_times_the_hidden_layers():
    """One more hidden layer of the expert: roll-out, linearisation, VJPs and training (3x) on T x B rows."""
    batch = build_sampler(4).batch(0)

    def actor_flops(depth: int) -> int:
        algorithm = build_algorithm(LearnerShape(depth=depth, width=16), "float32")
        algorithm.update(batch)
        return total_flops(matrix_products(lambda: algorithm.update_actor(batch.observation)))

    heads = 2 * 2 * 2 * 4 * 16 * 16  # both critic heads, forward and backward to the action, on B rows
    assert actor_flops(3) - actor_flops(2) == 6 * 10 * 2 * 4 * 16 * 16 + heads


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_learner_speed_adds_up(precision):
    speed = measure_learner(SHAPE, precision, seconds=0.1)
    assert speed.value_s > 0
    assert speed.actor_s > 0
    assert 0 < speed.floor_s < speed.update_s <= speed.median_update_s
    entries = bench_entries(speed)
    parts = ("updates", "value", "critic", "actor", "products-in-place", "speed-up")
    assert set(entries) == {f"learner/1x16/{precision}/{part}" for part in parts}
    assert 0 < speed.products_s < speed.median_update_s
    assert entries[f"learner/1x16/{precision}/updates"].value == pytest.approx(1 / speed.update_s)
    assert entries[f"learner/1x16/{precision}/speed-up"].ratio == pytest.approx(0.5 / speed.update_s)


def test_sampling_speed_is_positive():
    assert measure_sampling(batch_size=8, seconds=0.01) > 0


def test_fleet_replays_what_it_recorded():
    speed = measure_fleet(robots=1, episodes=1, rounds=1)
    assert speed.steps == 60  # a random policy runs into the first task's time limit
    assert speed.host_steps_per_s > 0
    assert fleet_entries(speed)["fleet/env-steps"].ratio == pytest.approx(
        speed.host_steps_per_s / speed.bare_steps_per_s
    )


def test_results_are_written_for_the_report(tmp_path):
    path = tmp_path / "new" / "bench.json"
    write_entries(path, {"a/b": BenchEntry(value=12.3456, unit="ms", baseline="something", ratio=0.98765)})
    assert json.loads(path.read_text()) == {
        "a/b": {"value": 12.35, "unit": "ms", "baseline": "something", "ratio": 0.9877}
    }
