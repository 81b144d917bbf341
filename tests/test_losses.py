import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sltjax
from sltjax import precision

X = jax.random.normal(jax.random.key(0), (6, 3))
PARAMS = {"a": jnp.ones((3, 4)), "b": jnp.full((4, 2), 0.5)}


def apply(params, batch):
    return batch @ params["a"] @ params["b"]


def test_behavioral_loss_is_zero_with_zero_gradient_at_its_anchor_on_every_example():
    for distance in (sltjax.squared_distance, sltjax.kl_divergence):
        loss = sltjax.behavioral_loss(apply, PARAMS, distance=distance)
        np.testing.assert_allclose(loss(PARAMS, X), np.zeros(6), atol=1e-6)
        jacobian = jax.jacobian(loss)(PARAMS, X)
        assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(jacobian)) < 1e-5


def test_behavioral_loss_needs_an_anchor_to_be_called():
    with pytest.raises(ValueError, match="no anchor"):
        sltjax.behavioral_loss(apply)(PARAMS, X)


def test_kl_divergence_by_hand_and_over_positions():
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.2, 0.6])
    by_hand = np.sum(p * np.log(p / q))
    one = sltjax.kl_divergence(jnp.log(q)[None], jnp.log(p)[None])
    np.testing.assert_allclose(one, [by_hand], rtol=1e-5)
    positions = sltjax.kl_divergence(jnp.log(np.tile(q, (2, 5, 1))), jnp.log(np.tile(p, (2, 5, 1))))
    np.testing.assert_allclose(positions, [5 * by_hand] * 2, rtol=1e-5)


def test_restrict_changes_only_what_was_selected():
    def loss(params, batch):
        return jnp.sum(apply(params, batch) ** 2, axis=1)

    restricted, part = sltjax.restrict(loss, PARAMS, lambda p: p["a"][:, :2])
    assert part.shape == (3, 2)
    np.testing.assert_allclose(restricted(part, X), loss(PARAMS, X), rtol=1e-6)
    moved = {**PARAMS, "a": PARAMS["a"].at[:, :2].add(0.7)}
    np.testing.assert_allclose(restricted(part + 0.7, X), loss(moved, X), rtol=1e-5)

    nested, row = sltjax.restrict(restricted, part, lambda a: a[0])
    moved = {**PARAMS, "a": PARAMS["a"].at[0, :2].add(0.7)}
    np.testing.assert_allclose(nested(row + 0.7, X), loss(moved, X), rtol=1e-5)


def test_restricting_a_behavioral_loss_keeps_the_whole_anchor():
    restricted, part = sltjax.restrict(sltjax.behavioral_loss(apply), PARAMS, lambda p: p["b"])
    np.testing.assert_allclose(restricted(part, X), np.zeros(6), atol=1e-6)
    whole = sltjax.behavioral_loss(apply, PARAMS)({**PARAMS, "b": PARAMS["b"] + 1}, X)
    np.testing.assert_allclose(restricted(part + 1, X), whole, rtol=1e-6)


def test_a_loss_in_another_precision_multiplies_in_it(monkeypatch):
    """Float32 comes in and goes out, tokens stay integers, and of a behavioural loss the outputs are computed so."""

    monkeypatch.setattr(precision, "LARGE", 0)

    def outputs(params, batch):
        return apply(params, batch["x"]) + batch["token"][:, None]

    def near(x):
        return x.astype(jnp.bfloat16).astype(jnp.float32)

    batch, anchor = {"x": X, "token": jnp.arange(6)}, {"a": PARAMS["a"] * 1.3, "b": PARAMS["b"]}
    before, after = (near(near(X) @ near(w["a"])) @ near(w["b"]) for w in (anchor, PARAMS))
    behavioral = sltjax.in_precision(sltjax.behavioral_loss(outputs, anchor))
    np.testing.assert_allclose(behavioral(PARAMS, batch), 0.5 * jnp.sum((after - before) ** 2, axis=1), rtol=1e-5)
    plain = sltjax.in_precision(lambda w, batch: jnp.sum(jnp.square(outputs(w, batch)), axis=1))
    expected = jnp.sum((after + jnp.arange(6)[:, None]) ** 2, axis=1)
    np.testing.assert_allclose(plain(PARAMS, batch), expected, rtol=1e-5)
    assert plain(PARAMS, batch).dtype == jnp.float32


@pytest.mark.slow
def test_a_learning_coefficient_in_bfloat16(monkeypatch):
    """The chains move in float32, so that small steps do not round away, and λ̂ is that of float32."""
    monkeypatch.setattr(precision, "LARGE", 0)
    data = jax.random.normal(jax.random.key(1), (512, 3))
    settings = {"nbeta": 200.0, "error": 0.02}
    loss = sltjax.behavioral_loss(apply)
    exact = sltjax.estimate_llc(jax.random.key(2), loss, PARAMS, data, **settings)
    rough = sltjax.estimate_llc(jax.random.key(2), sltjax.in_precision(loss), PARAMS, data, **settings)
    assert 0 < abs(rough.value - exact.value) < 4 * np.hypot(rough.std_error, exact.std_error)
    assert rough.std_error < 0.04 * exact.value


def test_precision_is_floating_point():
    with pytest.raises(TypeError, match="got int32, expected floating point"):
        sltjax.in_precision(lambda w, batch: batch, jnp.int32)
