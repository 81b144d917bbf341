import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import sltjax
from sltjax.truth import sgld_llc

X = jax.random.normal(jax.random.key(0), (5, 3))


class Net(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(3, 4, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)])
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.layers[1](self.dropout(self.norm(self.layers[0](x))))


def test_nnx_module_becomes_a_pure_function_in_evaluation_mode():
    model = Net(nnx.Rngs(0))
    before = [np.array(leaf) for leaf in jax.tree.leaves(nnx.state(model, nnx.Not(nnx.RngState)))]
    params, outputs = sltjax.from_nnx(model, lambda m, batch: m(batch))
    first, again = outputs(params, X), jax.jit(outputs)(params, X)
    np.testing.assert_allclose(first, again, rtol=1e-5)
    assert not model.dropout.deterministic
    assert not model.norm.use_running_average
    after = jax.tree.leaves(nnx.state(model, nnx.Not(nnx.RngState)))
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    model.eval()
    np.testing.assert_allclose(first, model(X), rtol=1e-5)
    assert {type(leaf) for leaf in jax.tree.leaves(params, is_leaf=lambda v: isinstance(v, nnx.Variable))} == {
        nnx.Param
    }


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(2)(linen.BatchNorm(use_running_average=True)(linen.Dense(4)(x)))


def test_linen_module_keeps_its_other_collections():
    module = LinenNet()
    variables = module.init(jax.random.key(0), X)
    params, outputs = sltjax.from_linen(module, variables, lambda apply, batch: apply(batch))
    np.testing.assert_allclose(outputs(params, X), module.apply(variables, X), rtol=1e-6)
    doubled = jax.tree.map(lambda w: 2 * w, params)
    expected = module.apply({**variables, "params": doubled}, X)
    np.testing.assert_allclose(outputs(doubled, X), expected, rtol=1e-6)


def test_linen_variables_without_params():
    with pytest.raises(ValueError, match='"params"'):
        sltjax.from_linen(LinenNet(), {"kernel": jnp.ones(3)}, lambda apply, batch: apply(batch))


def test_an_nnx_state_can_be_sampled():
    params, outputs = sltjax.from_nnx(nnx.Linear(3, 1, rngs=nnx.Rngs(0)), lambda m, batch: m(batch))
    loss, data, step_size = sltjax.behavioral_loss(outputs), jnp.tile(X, (20, 1)), 0.02
    estimate = sltjax.estimate_llc(
        jax.random.key(0), loss, params, data, nbeta=20.0, sampler=sltjax.SGLD(step_size), num_draws=10_000
    )
    features = np.column_stack([X, np.ones(len(X))])
    exact = sgld_llc(np.linalg.eigvalsh(features.T @ features / len(X)), 20.0, 1.0, step_size)
    assert estimate.std_error < 0.03 * exact
    assert abs(estimate.value - exact) < 4 * estimate.std_error
