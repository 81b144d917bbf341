"""Each verdict has one cause, and appears with that cause alone."""

import re

import numpy as np
import pytest

from sltjax.diagnostics import first_failure, health
from sltjax.moments import mean

NORMAL = np.random.default_rng(0).normal(size=(4, 2000))
HEALTHY = NORMAL + 10


def judge(x):
    x = np.asarray(x, np.float32)
    finite = x[first_failure(x) < 0]
    return health(x, mean(finite) if len(finite) else None)


def broken(x, chains):
    return np.where(np.isin(np.arange(len(x)), chains)[:, None] & (np.arange(x.shape[1]) >= 700), np.nan, x)


def test_nothing_is_said_of_independent_draws():
    found = judge(HEALTHY)
    assert found.ok
    assert found.messages == ()
    assert found.failed_draw.tolist() == [-1] * 4
    assert found.rhat < 1.005
    assert 0.7 * 8000 < found.ess < 1.3 * 8000
    assert abs(found.drift) < 3


@pytest.mark.parametrize(
    ("cause", "x", "said"),
    [
        ("one chain lost", broken(HEALTHY, [2]), "1 of 4 chains left the finite numbers"),
        ("all chains lost", broken(HEALTHY, range(4)), "all 4 chains left the finite numbers, the first at draw 700"),
        ("never moved", np.full((4, 2000), 10.0), "never moved"),
        ("a falling trend", HEALTHY + np.linspace(0.3, 0, 2000), r"still drifting by -\d"),
        ("a rising trend", HEALTHY + np.linspace(0, 0.3, 2000), r"still drifting by \+\d"),
        ("chains apart", HEALTHY + np.array([[0], [0], [0], [0.32]]), "chains disagree"),
        (
            "few draws",
            np.random.default_rng(2).normal(size=(4, 16)) + 10,
            r"only \d\d effective draws: raise num_draws",
        ),
    ],
)
def test_one_cause_one_message(cause, x, said):
    found = judge(x)
    assert not found.ok
    assert len(found.messages) == 1, (cause, found.messages)
    assert re.search(said, found.messages[0])


def test_drift_is_counted_in_its_standard_errors():
    # thirds of 667 draws of 4 chains: each mean has error 1/√2668, their difference √2 times that
    change = 0.3
    shifted = HEALTHY + np.repeat([[0, 0, change]], [667, 666, 667], axis=1)
    exact = change / np.sqrt(2 / (4 * 667))
    assert judge(shifted).drift - judge(HEALTHY).drift == pytest.approx(exact, rel=0.3)


def test_one_broken_chain_does_not_colour_the_verdict_on_the_others():
    found, without = judge(broken(HEALTHY, [1])), judge(HEALTHY[[0, 2, 3]])
    assert (found.rhat, found.ess, found.drift) == (without.rhat, without.ess, without.drift)
    assert found.failed_draw.tolist() == [-1, 700, -1, -1]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_first_failure_of_each_chain(bad):
    x = np.zeros((3, 10))
    x[1, 4], x[1, 8], x[2, 0] = bad, bad, bad
    assert first_failure(x).tolist() == [-1, 4, 0]
