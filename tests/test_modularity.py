"""Two networks side by side: the modules are found, by how losses move together and by what coefficients lack."""

from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sltjax
from sltjax import observables
from sltjax.estimators import Interactions, coefficient_interactions, loss_interactions, modules
from sltjax.types import Estimate, Health

WIDTH, RANK = 3, 2
NAMES = ("left/in", "left/out", "right/in", "right/out")
PARTS = {name: sltjax.part(name) for name in NAMES}
BOTH_LAYERS = RANK * RANK  # directions along which the two layers of a block undo one another: W·G, G⁻¹·V


def loss(params, batch):
    """Two linear networks 3-2-3 on inputs of their own: neither knows of the other."""

    def of_block(name):
        block = params[name]
        return jnp.sum((batch[name] @ block["in"] @ block["out"] - batch[name + " target"]) ** 2, axis=-1) / 2

    return of_block("left") + of_block("right")


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    params, data = {}, {}
    for name in ("left", "right"):
        ends = [np.linalg.qr(rng.standard_normal((WIDTH, RANK)))[0] for _ in range(2)]
        params[name] = {"in": ends[0].astype(np.float32), "out": ends[1].T.astype(np.float32)}
        x = rng.standard_normal((200, WIDTH)).astype(np.float32)
        x = np.linalg.qr(x - x.mean(0))[0] * np.sqrt(200)  # of unit covariance, and no noise
        data |= {name: x, name + " target": x @ params[name]["in"] @ params[name]["out"]}
    return params, jax.tree.map(jnp.asarray, data)


@pytest.mark.slow
def test_losses_of_parts_move_together_within_a_block_alone(problem):
    params, data = problem
    posterior = sltjax.LocalPosterior(loss, params, 100.0, 10.0)
    recorded = {"parts": observables.part_losses(loss, PARTS.values(), data)}
    trace = sltjax.sample(
        jax.random.key(0),
        posterior,
        sltjax.GHMC(0.05),
        data,
        observables=recorded,
        num_chains=4,
        num_draws=2500,
        burn_in=1000,
        thin=4,
        batch_size=200,
    )
    found = loss_interactions(trace["parts"], NAMES)
    across = found.value[:2, 2:]
    assert (np.abs(across) < 4 * found.std_error[:2, 2:]).all()
    within = found.value[[0, 2], [1, 3]]
    assert (within > 0.2).all()
    assert np.nanmax(found.std_error) < 0.05
    assert modules(found) == {"left/in": 0, "left/out": 0, "right/in": 1, "right/out": 1}
    with pytest.raises(ValueError, match="got 1 names for 4"):
        loss_interactions(trace["parts"], ["one"])


@pytest.mark.slow
def test_coefficients_fall_short_of_their_sum_by_the_directions_that_two_parts_share(problem):
    params, data = problem
    settings = {"nbeta": 1000.0, "gamma": 1.0, "num_draws": 1000, "burn_in": 500, "thin": 4, "batch_size": 200}

    def coefficient(select):
        sampler = sltjax.GHMC(0.02)
        return sltjax.estimate_llc(jax.random.key(1), loss, params, data, select=select, sampler=sampler, **settings)

    parts = {**{name: PARTS[name] for name in NAMES[:2]}, "right": sltjax.part("right/.*")}
    alone = {name: coefficient(part) for name, part in parts.items()}
    found = coefficient_interactions(
        alone, {(a, b): coefficient(parts[a] | parts[b]) for a, b in combinations(parts, 2)}
    )
    pairs = np.triu_indices(3, 1)
    expected = [-BOTH_LAYERS / 2, 0, 0]
    assert (np.abs(found.value[pairs] - expected) < 4 * found.std_error[pairs]).all()
    assert found.std_error[pairs].max() < 0.15
    assert modules(found) == {"left/in": 0, "left/out": 0, "right": 1}


def known(value, error=0.01):
    value = np.array(value, float)
    return Interactions(tuple("abc"), value, np.full(value.shape, error), np.ones(value.shape))


def test_an_interaction_within_its_error_joins_nothing():
    value = [[np.nan, 0.5, 0.3], [0.5, np.nan, 0.3], [0.3, 0.3, np.nan]]
    assert modules(known(value)) == {"a": 0, "b": 0, "c": 0}
    unsure = known(value)
    unsure.std_error[:, 2] = unsure.std_error[2] = 0.1
    assert modules(unsure) == {"a": 0, "b": 0, "c": 1}
    assert modules(known(value), least=0.4) == {"a": 0, "b": 0, "c": 1}


def test_misuse_is_told():
    value = [[np.nan, 0.5, np.nan], [0.5, np.nan, 0.3], [np.nan, 0.3, np.nan]]
    with pytest.raises(ValueError, match="some interactions are not finite"):
        modules(known(value))
    with pytest.raises(ValueError, match="least: got 1"):
        modules(known(value), least=1.0)
    one = Estimate(1.0, 0.1, np.ones(4), Health(np.full(4, -1), 1.0, 100.0, 0.0, ()))
    with pytest.raises(ValueError, match=r"together lacks the pair \('a', 'b'\)"):
        coefficient_interactions({"a": one, "b": one}, {})
    reversed_pair = coefficient_interactions({"a": one, "b": one}, {("b", "a"): one})
    assert reversed_pair.value[0, 1] == -1
