"""λ̂ and the verdicts on it."""

import numpy as np
import pytest

import sltjax

NORMAL = np.random.default_rng(0).normal(size=(4, 2000))


def estimate(x, nbeta=10.0):
    return sltjax.llc({"delta_loss": x}, nbeta)


def test_healthy_draws_have_no_message():
    found = estimate(NORMAL * 0.1 + 0.3)
    assert found.health.ok
    assert found.health.messages == ()
    assert found.value == pytest.approx(3.0, abs=0.1)
    assert found.std_error == pytest.approx(1.0 / np.sqrt(8000), rel=0.3)
    np.testing.assert_allclose(found.per_chain, 10 * (NORMAL * 0.1 + 0.3).mean(axis=1))


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (NORMAL * 0.1 - 0.3, "negative"),
        (NORMAL * 0.1 + np.linspace(0, 1, 2000), "still drifting by +"),
        (NORMAL * 0.1 + np.linspace(1, 0, 2000), "still drifting by -"),
        (NORMAL * 0.1 + np.array([[1], [1], [1], [1.5]]), "the chains disagree (R-hat"),
        (np.repeat(NORMAL[:, :20], 100, axis=1) + 3, "effective draws"),
        (np.full((4, 100), 0.5), "never moved"),
    ],
)
def test_each_cause_has_its_message(x, said):
    found = estimate(x)
    assert not found.health.ok
    assert any(said in message for message in found.health.messages), found.health.messages


def test_chains_that_stand_still_are_told():
    trace = {"delta_loss": NORMAL * 0.1 + 0.3}
    assert sltjax.llc({**trace, "acceptance": np.full(NORMAL.shape, 0.6)}, 10.0).health.ok
    (said,) = sltjax.llc({**trace, "acceptance": np.full(NORMAL.shape, 0.04)}, 10.0).health.messages
    assert "4% of their steps were accepted; lower the step size" in said


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_failed_chain_is_left_out_and_named(bad):
    x = NORMAL * 0.1 + 0.3
    broken = x.copy()
    broken[1, 700:] = bad
    found, without = estimate(broken), estimate(x[[0, 2, 3]])
    assert found.value == without.value
    assert found.std_error == without.std_error
    assert np.isnan(found.per_chain[1])
    assert found.health.failed_draw.tolist() == [-1, 700, -1, -1]
    assert "1 of 4 chains left the finite numbers" in found.health.messages[0]


def test_no_number_where_all_chains_failed():
    x = NORMAL.copy()
    x[:, 5:] = np.nan
    found = estimate(x)
    assert np.isnan(found.value)
    assert np.isnan(found.std_error)
    assert "all 4 chains" in found.health.messages[0]
    assert "draw 5" in found.health.messages[0]
