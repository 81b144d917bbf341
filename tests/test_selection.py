"""Models side by side, and the singular BIC."""

import numpy as np
import pandas as pd
import pytest

import sltjax
from sltjax.estimators.hessian import HessianSpectrum
from sltjax.truth import deep_linear_llc
from sltjax.types import Estimate, Health

REGULAR = [[(0.5, 1), None], [(0.5, 1), (1.0, 1)]]


def reduced_rank(inputs, outputs, most):
    """λ_ij and m_ij of regression matrices of rank at most i where their rank is j."""
    return [
        [
            deep_linear_llc((inputs, max(i, 1), outputs), j) if 0 < i >= j else ((0, 1) if i == j else None)
            for j in range(most + 1)
        ]
        for i in range(most + 1)
    ]


def roots_in_floats(log_likelihoods, coefficients, n):
    """L_i by the textbook formula, for numbers that floats can hold."""
    found = []
    for i, log_likelihood in enumerate(log_likelihoods):
        penalised = [
            np.exp(log_likelihood) * n ** -float(c) * np.log(n) ** (m - 1) for c, m in coefficients[i][: i + 1]
        ]
        b = sum(found) - penalised[i]
        c = np.dot(penalised[:i], found)
        found.append((-b + np.sqrt(b**2 + 4 * c)) / 2)
    return np.array(found)


@pytest.mark.parametrize("gain", [0.0, 0.1, 1.0, 5.0, 20.0])
def test_sbic_is_the_positive_root(gain):
    coefficients = reduced_rank(4, 3, 3)
    log_likelihoods = gain * np.array([0.0, 0.6, 0.9, 1.0])
    found = sltjax.sbic(log_likelihoods, coefficients, 50)
    np.testing.assert_allclose(np.exp(found), roots_in_floats(log_likelihoods, coefficients, 50), rtol=1e-9)


def test_sbic_solves_its_equation_where_floats_cannot_hold_likelihoods():
    coefficients = reduced_rank(4, 3, 3)
    small = np.array([0.0, 6.0, 9.0, 10.0])
    np.testing.assert_allclose(
        sltjax.sbic(small - 5e4, coefficients, 50), sltjax.sbic(small, coefficients, 50) - 5e4, rtol=1e-9
    )
    far = sltjax.sbic(np.array([0.0, 4e3, 5e3, 5e3]), coefficients, 50)
    assert np.all(np.isfinite(far))
    # where each model beats its submodels by far, what is left is its own penalty
    assert far[2] == pytest.approx(5e3 - float(coefficients[2][2][0]) * np.log(50))


def test_sbic_of_regular_models_is_bic_where_a_model_does_not_hold_the_truth_of_its_submodel():
    own = [[(0.5, 1), None], [None, (1.0, 1)]]
    np.testing.assert_allclose(sltjax.sbic([-20.0, -18.0], own, 100), [-20 - np.log(100) / 2, -18 - np.log(100)])
    # λ of the submodel counts where it explains the data as well
    assert sltjax.sbic([-20.0, -20.0], REGULAR, 100)[1] > -20 - np.log(100)


def test_sbic_at_a_root_of_which_the_linear_term_is_zero():
    # L_0 = L'_11 = 1/n and L'_10 = 1/√n, hence L_1² = n^(−3/2)
    found = sltjax.sbic([0.0, 0.0], [[(1.0, 1), None], [(0.5, 1), (1.0, 1)]], 100)
    np.testing.assert_allclose(found, [-np.log(100), -0.75 * np.log(100)], rtol=1e-6)


RANK = 3


def chosen_ranks(n):
    """What BIC and sBIC take for the rank 3 of regressions 8 → 6, in a hundred data sets of n examples."""
    inputs, outputs, rank = 8, 6, RANK
    coefficients = reduced_rank(inputs, outputs, 6)
    rng = np.random.default_rng(0)
    strength = np.array([3.0, 1.5, 0.75])
    chosen = {"bic": [], "sbic": []}
    for _ in range(100):
        left, _ = np.linalg.qr(rng.normal(size=(inputs, rank)))
        right, _ = np.linalg.qr(rng.normal(size=(outputs, rank)))
        x = rng.normal(size=(n, inputs))
        y = x @ (left * strength) @ right.T + rng.normal(size=(n, outputs))
        basis, _ = np.linalg.qr(x)
        explained = np.concatenate([[0.0], np.cumsum(np.linalg.svd(basis.T @ y, compute_uv=False) ** 2)])
        losses = (np.sum(y**2) - explained) / (2 * n)
        models = {
            f"rank {i}": sltjax.Candidate(float(loss), i * (inputs + outputs - i)) for i, loss in enumerate(losses)
        }
        table = sltjax.compare_models(models, n, coefficients=coefficients)
        for name, ranks in chosen.items():
            ranks.append(int(table[name].argmin()))
    return chosen


def test_the_rank_of_a_regression_is_chosen_better_than_by_bic():
    """BIC counts parameters that the data do not, and takes too small a rank (Drton & Plummer 2017)."""
    chosen = chosen_ranks(80)
    right = {name: np.mean(np.array(ranks) == RANK) for name, ranks in chosen.items()}
    assert right["sbic"] > right["bic"] + 0.05
    assert right["sbic"] > 0.9
    assert np.mean(chosen["bic"]) < np.mean(chosen["sbic"]) < RANK + 0.2


def estimate(value, error, *messages):
    return Estimate(value, error, np.full(4, value), Health(np.full(4, -1), 1.0, 400.0, 0.0, messages))


def test_the_table_has_a_column_for_what_is_known():
    h = np.array([0.0, 1.0, 2.0])
    spectrum = HessianSpectrum(h[None, None], np.ones((1, 1, 3)), h[::-1], np.zeros(3))
    models = {
        "small": sltjax.Candidate(0.7, 2),
        "large": sltjax.Candidate(
            0.5, 3, llc=estimate(1.2, 0.1, "short"), multiplicity=2, waic=estimate(0.55, 0.01), hessian=spectrum
        ),
    }
    table = sltjax.compare_models(models, 100)
    assert isinstance(table, pd.DataFrame)
    assert [*table.index] == ["small", "large"]
    assert [name for name in table.columns if not name.endswith("_std_error")] == [
        *("loss", "parameters", "bic", "llc", "half_rank", "free_energy", "waic", "messages")
    ]
    assert table["bic"].tolist() == pytest.approx([70 + np.log(100), 50 + 1.5 * np.log(100)])
    large = table.loc["large"]
    assert large["free_energy"] == pytest.approx(50 + 1.2 * np.log(100) - np.log(np.log(100)))
    assert large["free_energy_std_error"] == pytest.approx(0.1 * np.log(100))
    assert (large["half_rank"], large["half_rank_std_error"]) == (1.0, 0.0)
    assert large["messages"] == "llc: short"
    assert table.loc["small"].isna().sum() == 8


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: sltjax.compare_models({}, 10), "candidates: got none"),
        (lambda: sltjax.compare_models({"a": sltjax.Candidate(0.1, 1)}, 1), "num_examples: got 1"),
        (lambda: sltjax.sbic([0.0, 0.0], REGULAR, 2), "got 2, expected at least 3"),
        (lambda: sltjax.sbic([0.0], REGULAR, 10), r"got rows of \[2, 2\], expected 1 rows of 1"),
        (lambda: sltjax.sbic([0.0, 0.0], [[(1, 1), (1, 1)], [None, (1, 1)]], 10), "submodels come first"),
        (lambda: sltjax.sbic([0.0, 0.0], [[(1, 1), None], [(1, 1), None]], 10), "row 1 must have an entry at 1"),
    ],
)
def test_what_cannot_work_is_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call()
