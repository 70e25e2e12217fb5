"""DIVL's categorical value distributions against closed forms."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from lwd.errors import ConfigError, ShapeError
from lwd.ops.categorical import (
    adaptive_quantile_level,
    categorical_cross_entropy,
    categorical_mean,
    categorical_quantile,
    normalized_entropy,
    support,
    two_hot,
)
from lwd.ops.regression import expectile_loss, pinball_loss
from lwd.ops.returns import bootstrap_discount, n_step_chunk_return, td_target

DTYPES = [torch.float32, torch.float64]
repeatable = settings(derandomize=True, deadline=None, max_examples=60)
levels = st.floats(0.01, 1.0)
weights = st.lists(st.floats(0, 1), min_size=11, max_size=11).filter(lambda ws: sum(ws) > 0.1)


def distribution(raw: list[float]) -> torch.Tensor:
    probs_K = torch.tensor(raw, dtype=torch.float64)
    return probs_K / probs_K.sum()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (7,), (3, 4)])
def test_two_hot_is_a_distribution_with_the_clipped_mean(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    atoms_K = support(201, -0.1, 1.1, dtype=dtype)
    value = torch.rand(shape, dtype=dtype, generator=torch.Generator().manual_seed(0)) * 2 - 0.5
    probs = two_hot(value, atoms_K)
    assert probs.shape == (*shape, 201)
    assert probs.dtype is dtype
    assert (probs >= 0).all()
    assert_close(probs.sum(-1), torch.ones(shape, dtype=dtype))
    assert int((probs > 0).sum(-1).max()) <= 2
    assert_close(categorical_mean(probs, atoms_K), value.clamp(-0.1, 1.1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_dirac_projects_to_itself(dtype: torch.dtype) -> None:
    atoms_K = support(201, -0.1, 1.1, dtype=dtype)
    assert torch.equal(two_hot(atoms_K, atoms_K), torch.eye(201, dtype=dtype))


def test_two_hot_by_hand_on_an_uneven_support() -> None:
    atoms_K = torch.tensor([0.0, 1.0, 3.0])
    assert_close(
        two_hot(torch.tensor([1.5, -9.0, 9.0]), atoms_K),
        torch.tensor([[0, 0.75, 0.25], [1, 0, 0], [0, 0, 1]]),
    )


def test_a_non_finite_value_is_not_hidden_by_the_clip() -> None:
    assert two_hot(torch.tensor([math.nan]), support(5, 0, 1)).isnan().any()


@repeatable
@given(raw=weights, level=levels)
def test_the_quantile_is_the_first_atom_that_reaches_the_level(raw: list[float], level: float) -> None:
    probs_K, atoms_K = distribution(raw), support(11, 0, 1, dtype=torch.float64)
    quantile = categorical_quantile(probs_K, atoms_K, torch.tensor(level, dtype=torch.float64)).item()
    reached = [atom for atom, mass in zip(atoms_K.tolist(), probs_K.cumsum(0).tolist(), strict=True) if mass >= level]
    assert quantile == (min(reached) if reached else atoms_K[-1].item())


def test_the_quantile_by_hand_where_the_cdf_meets_the_level_exactly() -> None:
    probs_BK = torch.tensor([[0.25, 0.25, 0.0, 0.5]]).expand(4, -1)
    level_B = torch.tensor([0.25, 0.5, 0.51, 1.0])
    assert categorical_quantile(probs_BK, support(4, 0, 3), level_B).tolist() == [0, 1, 3, 3]


@repeatable
@given(raw=weights, low=levels, high=levels)
def test_the_quantile_is_monotone_in_the_level(raw: list[float], low: float, high: float) -> None:
    probs_K, atoms_K = distribution(raw), support(11, 0, 1, dtype=torch.float64)
    level_2 = torch.tensor(sorted([low, high]), dtype=torch.float64)
    lower, upper = categorical_quantile(probs_K.expand(2, -1), atoms_K, level_2).tolist()
    assert lower <= upper


@repeatable
@given(raw=weights, level=st.floats(0.05, 0.95))
def test_the_quantile_minimises_the_pinball_loss(raw: list[float], level: float) -> None:
    probs_K, atoms_K = distribution(raw), support(11, 0, 1, dtype=torch.float64)
    quantile = categorical_quantile(probs_K, atoms_K, torch.tensor(level, dtype=torch.float64))
    candidates_C = torch.cat([torch.linspace(0, 1, 301, dtype=torch.float64), quantile.reshape(1)])
    risk_C = (probs_K * pinball_loss(atoms_K - candidates_C[:, None], level)).sum(-1)
    assert risk_C[-1] <= risk_C.min() + 1e-12


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_cdf_that_rounds_below_the_level_gives_the_last_atom(dtype: torch.dtype) -> None:
    atoms_K = support(4, 0, 3, dtype=dtype)
    probs_K = torch.full((4,), 0.25, dtype=dtype) * (1 - 1e-6)
    assert categorical_quantile(probs_K, atoms_K, torch.tensor(1.0, dtype=dtype)) == 3


def test_normalised_entropy_of_dirac_uniform_and_a_fair_coin() -> None:
    probs_3K = torch.stack([torch.eye(4)[2], torch.full((4,), 0.25), torch.tensor([0.5, 0.5, 0, 0])])
    assert_close(normalized_entropy(probs_3K), torch.tensor([0.0, 1.0, 0.5]))


def test_normalised_entropy_has_a_finite_gradient_through_a_softmax_that_underflows() -> None:
    logits_K = torch.tensor([0.0, 1.0, -50.0], requires_grad=True)
    normalized_entropy(logits_K.softmax(-1)).backward()
    assert logits_K.grad is not None
    assert logits_K.grad.isfinite().all()


def test_adaptive_level_by_hand() -> None:
    entropy_B = torch.tensor([0.0, 0.5, 1.0], requires_grad=True)
    level_B = adaptive_quantile_level(entropy_B, base=0.6, entropy_weight=0.3, low=0.35, high=0.55)
    assert_close(level_B, torch.tensor([0.55, 0.45, 0.35]))
    assert not level_B.requires_grad


def test_cross_entropy_is_smallest_at_the_target_and_its_gradient_is_the_difference() -> None:
    target_K = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    logits_K = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64, requires_grad=True)
    categorical_cross_entropy(logits_K, target_K).backward()
    assert logits_K.grad is not None
    assert_close(logits_K.grad, logits_K.detach().softmax(-1) - target_K)
    at_target = categorical_cross_entropy(target_K.log(), target_K)
    assert_close(at_target, torch.special.entr(target_K).sum())


# ---- Proposition 1 and the difference between quantiles and expectiles -------------------------------------


def minimiser(loss: object, samples_N: torch.Tensor, level: float) -> float:
    """Find where the mean loss is flat, by bisection on its derivative."""
    low, high = samples_N.min().item(), samples_N.max().item()
    for _ in range(60):
        middle = torch.tensor((low + high) / 2, dtype=samples_N.dtype, requires_grad=True)
        loss(samples_N - middle, level).mean().backward()  # type: ignore[operator]
        assert middle.grad is not None
        low, high = (low, middle.item()) if middle.grad > 0 else (middle.item(), high)
    return (low + high) / 2


@pytest.mark.parametrize("level", [0.1, 0.52, 0.9])
def test_proposition_1_fit_then_statistic_equals_direct_regression(level: float) -> None:
    atoms_K = support(41, 0, 1, dtype=torch.float64)
    rng = torch.Generator().manual_seed(3)
    values_N = atoms_K[torch.randint(0, 41, (500,), generator=rng)] ** 2
    spacing = 1 / 40

    # The value loss alone, minimised: where its gradient vanishes, the fit is the mean of the projections.
    targets_NK = two_hot(values_N, atoms_K)
    fitted_K = targets_NK.mean(0)
    logits_K = fitted_K.clamp(min=1e-300).log().requires_grad_()
    categorical_cross_entropy(logits_K.expand(500, -1), targets_NK).mean().backward()
    assert logits_K.grad is not None
    assert_close(logits_K.grad, torch.zeros(41, dtype=torch.float64), atol=1e-12, rtol=0)

    quantile = categorical_quantile(fitted_K, atoms_K, torch.tensor(level, dtype=torch.float64)).item()
    assert abs(quantile - minimiser(pinball_loss, values_N, level)) <= spacing
    # p = 2: the expectile of the fitted distribution, drawn exactly as atoms with their weights.
    fitted_samples = atoms_K.repeat_interleave((fitted_K * 1_000_000).round().long())
    expectile = minimiser(expectile_loss, fitted_samples, level)
    assert abs(expectile - minimiser(expectile_loss, values_N, level)) <= spacing / 4


def test_quantile_and_expectile_differ_on_a_uniform() -> None:
    samples_N = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    for level in (0.1, 0.5, 0.9):
        root, other = math.sqrt(level), math.sqrt(1 - level)
        assert minimiser(expectile_loss, samples_N, level) == pytest.approx(root / (root + other), abs=1e-4)
        assert minimiser(pinball_loss, samples_N, level) == pytest.approx(level, abs=1e-4)
    assert minimiser(expectile_loss, samples_N, 0.9) == pytest.approx(0.75, abs=1e-4)


@pytest.mark.parametrize("level", [0.2, 0.5, 0.8])
def test_quantile_and_expectile_agree_on_a_student_t_with_two_degrees_of_freedom(level: float) -> None:
    p_N = (torch.arange(1_000_000, dtype=torch.float64) + 0.5) / 1_000_000
    samples_N = (2 * p_N - 1) / (2 * p_N * (1 - p_N)).sqrt()
    quantile = (2 * level - 1) / math.sqrt(2 * level * (1 - level))
    # The heavy tail beyond the outermost sample is missing: about 1e-3.
    assert minimiser(expectile_loss, samples_N, level) == pytest.approx(quantile, abs=3e-3)


def test_asymmetric_losses_by_hand() -> None:
    residual = torch.tensor([-2.0, 0.0, 3.0])
    assert_close(pinball_loss(residual, 0.9), torch.tensor([0.2, 0.0, 2.7]))
    assert_close(expectile_loss(residual, 0.9), torch.tensor([0.4, 0.0, 8.1]))
    assert_close(expectile_loss(residual, 0.5), residual.square() / 2)
    assert_close(pinball_loss(residual, torch.tensor([0.9, 0.9, 0.1])), torch.tensor([0.2, 0.0, 0.3]))
    with pytest.raises(ConfigError, match=r"level is 1\.0"):
        pinball_loss(residual, 1.0)


# ---- returns -----------------------------------------------------------------------------------------------


def test_chunk_rewards_add_up_to_the_return_over_control_steps() -> None:
    gamma, horizon, chunks = 0.9, 3, 4
    rewards_BN = torch.rand(5, horizon * chunks, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    everything = torch.ones_like(rewards_BN, dtype=torch.bool)
    chunk_rewards_Bn = n_step_chunk_return(
        rewards_BN.reshape(-1, horizon), everything.reshape(-1, horizon), gamma
    ).reshape(5, chunks)
    by_chunks = sum(gamma ** (i * horizon) * chunk_rewards_Bn[:, i] for i in range(chunks))
    assert_close(n_step_chunk_return(rewards_BN, everything, gamma), by_chunks)


@pytest.mark.parametrize("dtype", DTYPES)
def test_invalid_steps_do_not_count_even_if_they_hold_nan(dtype: torch.dtype) -> None:
    rewards_BN = torch.tensor([[0.0, 1.0, math.nan]], dtype=dtype)
    valid_BN = torch.tensor([[True, True, False]])
    assert_close(n_step_chunk_return(rewards_BN, valid_BN, 0.5), torch.tensor([0.5], dtype=dtype))


def test_bootstrap_discount_counts_real_steps_and_stops_at_terminals() -> None:
    discount_B = bootstrap_discount(torch.tensor([0, 3, 300]), torch.tensor([False, True, False]), 0.9999)
    assert_close(discount_B, torch.tensor([1.0, 0.0, 0.9999**300]), rtol=1e-7, atol=0)


def test_td_target_by_hand_and_without_gradient() -> None:
    value_B = torch.tensor([0.5, 0.5], requires_grad=True)
    target_B = td_target(torch.tensor([0.0, 1.0]), torch.tensor([0.9, 0.0]), value_B)
    assert_close(target_B, torch.tensor([0.45, 1.0]))
    assert not target_B.requires_grad


# ---- misuse ------------------------------------------------------------------------------------------------


def test_wrong_shapes_and_settings_are_refused() -> None:
    atoms_K = support(5, 0, 1)
    with pytest.raises(ConfigError, match="num_atoms is 1"):
        support(1, 0, 1)
    with pytest.raises(ConfigError, match="below its high"):
        support(5, 1, 1)
    with pytest.raises(ShapeError, match=r"atoms_K has shape \(5, 1\)"):
        two_hot(torch.zeros(3), atoms_K[:, None])
    with pytest.raises(ShapeError, match="probs has shape"):
        categorical_quantile(torch.zeros(3, 5), atoms_K, torch.zeros(4))
    with pytest.raises(ShapeError, match="last dimension must be 5"):
        categorical_mean(torch.zeros(3, 4), atoms_K)
    with pytest.raises(ShapeError, match="K >= 2"):
        normalized_entropy(torch.ones(3, 1))
    with pytest.raises(ShapeError, match="must be equal"):
        categorical_cross_entropy(torch.zeros(3, 5), torch.zeros(5))
    with pytest.raises(ConfigError, match="0 < low <= high <= 1"):
        adaptive_quantile_level(torch.zeros(1), base=0.5, entropy_weight=0.1, low=0.6, high=0.5)
    with pytest.raises(ShapeError, match="must be equal"):
        n_step_chunk_return(torch.zeros(2, 3), torch.ones(3, dtype=torch.bool), 0.9)
    with pytest.raises(ConfigError, match="gamma is 0"):
        bootstrap_discount(torch.zeros(1), torch.zeros(1, dtype=torch.bool), 0)
