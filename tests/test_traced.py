"""λ̂ within the user's own jit, vmap and scan."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sltjax
from sltjax.estimators import traced_llc

LENGTHS = {"num_chains": 4, "num_draws": 100, "burn_in": 30, "thin": 2, "batch_size": 64}
SETTINGS = {"sampler": sltjax.UnderdampedLangevin(0.05), **LENGTHS}
DATA = jax.random.normal(jax.random.key(0), (256, 3))


def apply(params, batch):
    return jnp.tanh(batch @ params["w"]) @ params["v"]


LOSS = sltjax.behavioral_loss(apply)


def network(seed):
    one, two = jax.random.split(jax.random.key(seed))
    return {"w": jax.random.normal(one, (3, 4)), "v": jax.random.normal(two, (4, 2))}


@pytest.fixture(scope="module")
def seeds():
    """Four seeds in one vmap; their keys differ."""
    keys = jax.random.split(jax.random.key(7), 4)
    nets = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(network, range(4)))
    return keys, nets, jax.jit(jax.vmap(sltjax.llc_fn(LOSS, DATA, SETTINGS)))(keys, nets)


def test_it_is_what_sample_and_llc_give_outside(seeds):
    keys, _, together = seeds
    posterior = sltjax.LocalPosterior(LOSS, network(2), sltjax.default_nbeta(256), 1.0)
    trace = sltjax.sample(keys[2], posterior, SETTINGS["sampler"], DATA, **LENGTHS)
    alone = sltjax.llc(trace, sltjax.default_nbeta(256))
    heated = together.value[2] + together.health.heat[2] * alone.value  # `sample` does not measure the heat
    np.testing.assert_allclose(heated, alone.value, rtol=1e-4)
    assert 0 < together.health.heat[2] < 0.2
    for name in ("rhat", "ess", "drift"):
        np.testing.assert_allclose(getattr(together.health, name)[2], getattr(alone.health, name), rtol=2e-3)


def test_what_comes_of_it_claims_no_health_before_it_is_judged(seeds):
    together = seeds[2]
    assert not together.health.ok
    judged = sltjax.judge(together)
    assert [found.value for found in judged] == together.value.tolist()
    assert all("jit" not in said for found in judged for said in found.health.messages)
    assert any(found.health.ess < 100 for found in judged)
    for found in judged:
        assert any("effective draws" in said for said in found.health.messages) == (found.health.ess < 100)


@pytest.mark.slow
def test_it_runs_inside_a_training_scan():
    """The whole of a training, λ̂ after every tenth step, in one program that the data are no part of."""
    estimate = sltjax.llc_fn(LOSS, DATA, SETTINGS | {"num_draws": 20, "burn_in": 4, "gamma": 5.0})
    optimizer = optax.sgd(0.1)

    @jax.jit
    def train(estimate, params, key):
        def update(params, _):
            gradient = jax.grad(lambda w: jnp.mean(jnp.square(apply(w, DATA))))(params)
            return optax.apply_updates(params, optimizer.update(gradient, optimizer.init(params))[0]), None

        def some(params, key):
            params, _ = jax.lax.scan(update, params, length=10)
            return params, estimate(key, params)

        return jax.lax.scan(some, params, jax.random.split(key, 3))[1]

    found = train(estimate, network(0), jax.random.key(1))
    assert found.per_chain.shape == (3, 4)
    assert np.isfinite(found.value).all()
    held = DATA.nbytes // 4
    assert (
        max((np.size(c) for c in jax.make_jaxpr(train)(estimate, network(0), jax.random.key(1)).consts), default=0)
        < held
    )


def draws(lost=()):
    x = 0.1 + 0.02 * np.random.default_rng(0).standard_normal((4, 200)).astype(np.float32)
    for chain, draw in lost:
        x[chain, draw:] = np.nan
    return {"delta_loss": x, "heat": np.float32([0.1, 0.2, 0.3, 0.4]), "acceptance": np.full((4, 200), 0.2)}


within = jax.jit(lambda trace: traced_llc(trace, 50.0))


def plain(estimate):
    return {field.name: getattr(estimate, field.name) for field in dataclasses.fields(estimate)}


def test_the_numbers_and_words_are_those_of_llc():
    inside, outside = sltjax.judge(within(draws())), sltjax.llc(draws(), 50.0)
    for name, value in (plain(inside) | plain(inside.health)).items():
        expected = (plain(outside) | plain(outside.health))[name]
        if name == "messages":
            assert value == expected
            assert any("stand still" in said for said in value)
        elif name != "health":
            np.testing.assert_allclose(value, expected, rtol=1e-4)


def test_a_lost_chain_is_left_out_and_named():
    """Trust 12."""
    inside = sltjax.judge(within(draws([(1, 50)])))
    outside = sltjax.llc(draws([(1, 50)]), 50.0)
    np.testing.assert_allclose(inside.value, outside.value, rtol=1e-5)
    np.testing.assert_array_equal(inside.health.failed_draw, [-1, 50, -1, -1])
    np.testing.assert_allclose(inside.per_chain, outside.per_chain, rtol=1e-5)
    assert outside.std_error < 1.05 * inside.std_error < 1.4 * outside.std_error
    assert inside.health.messages[0] == outside.health.messages[0]


def test_where_all_chains_are_lost_there_is_no_number():
    found = sltjax.judge(within(draws([(chain, 20 + chain) for chain in range(4)])))
    assert np.isnan([found.value, found.std_error, *found.per_chain]).all()
    assert "all 4 chains" in found.health.messages[0]
    assert found.health.ess == 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sampler": None}, "missing"),
        ({"num_draw": 7}, "num_draw"),
        ({"burn_in": 500}, "burn_in"),
        ({"batch_size": 1000}, "batch_size"),
        ({"gamma": -1.0}, "gamma"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(settings, said):
    with pytest.raises(ValueError, match=said):
        sltjax.llc_fn(LOSS, DATA, SETTINGS | settings)


def test_a_scalar_loss_is_refused_where_it_is_traced():
    estimate = sltjax.llc_fn(lambda params, batch: jnp.mean(batch @ params["w"]), DATA, SETTINGS)
    with pytest.raises(ValueError, match="one loss an example"):
        jax.eval_shape(estimate, jax.random.key(0), network(0))


def test_what_calibrate_chose_is_a_setting():
    posterior = sltjax.LocalPosterior(LOSS, network(0), 40.0, 1.0)
    chosen = sltjax.calibrate(jax.random.key(0), posterior, DATA, **SETTINGS)
    assert set(chosen.settings) == {"sampler", *LENGTHS}
    shape = jax.eval_shape(sltjax.llc_fn(LOSS, DATA, chosen), jax.random.key(0), network(0))
    assert shape.per_chain.shape == (4,)
