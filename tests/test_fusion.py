"""What is computed apart stays so, and changes no number."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sltjax.fusion import laid_out, once


def test_what_is_computed_once_is_in_memory_before_what_takes_it():
    def table(x):
        return jnp.sin(x) + jnp.cos(x) * jnp.sin(x)

    def spread(made):
        return jax.jit(lambda x: made(x)[:, None] * jnp.ones((4, 1000))).lower(jnp.ones(4)).compile().as_text()

    assert " call(" in spread(once(table))
    assert " call(" not in spread(table)


@pytest.mark.parametrize(
    ("shape", "apart"),
    [((256, 256), "256,256"), ((64, 64), None), ((64, 10), "10,64"), ((10, 64), None), ((64, 1), None)],
)
def test_gradients_lie_as_they_are_best_taken(shape, apart):
    """Large ones in rows, those of few columns as columns; where nothing of this kind is gained, as XLA has them."""

    def loss(w, x):
        return jnp.sum(jnp.tanh(x @ w))

    def update(w, x, laid):
        return jax.vmap(lambda w: w - 0.1 * laid(jax.grad(loss)(w, x)) * jnp.cos(w))(w)

    w, x = jax.random.normal(jax.random.key(0), (3, *shape)), jax.random.normal(jax.random.key(1), (8, shape[0]))
    program = jax.jit(partial(update, laid=laid_out)).lower(w, x).compile()
    assert (" call(" in program.as_text()) == (apart is not None)
    assert apart is None or f"f32[3,{apart}]{{2,1,0}} call(" in program.as_text()
    np.testing.assert_allclose(program(w, x), update(w, x, lambda w: w), atol=1e-5)


@pytest.mark.parametrize("shape", [(130, 130), (64, 10)])
def test_curvature_passes_through(shape):
    w = jax.random.normal(jax.random.key(0), shape)
    gradient = jax.grad(lambda w: jnp.sum(jnp.sin(w) ** 2))
    _, times = jax.jvp(lambda w: laid_out(gradient(w)), (w,), (jnp.ones_like(w),))
    np.testing.assert_allclose(times, 2 * jnp.cos(2 * w), atol=1e-5)
