"""What is computed apart stays so, and changes no number."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sltjax.fusion import LARGE, in_rows, once


def test_what_is_computed_once_is_in_memory_before_what_takes_it():
    def table(x):
        return jnp.sin(x) + jnp.cos(x) * jnp.sin(x)

    def spread(made):
        return jax.jit(lambda x: made(x)[:, None] * jnp.ones((4, 1000))).lower(jnp.ones(4)).compile().as_text()

    assert " call(" in spread(once(table))
    assert " call(" not in spread(table)


@pytest.mark.parametrize(("width", "is_copied"), [(256, True), (64, False)])
def test_large_gradients_lie_in_rows_before_they_are_taken(width, is_copied):
    """Of one checkpoint's lanes, which is where XLA does not turn the product around by itself."""
    assert (width**2 >= LARGE) == is_copied

    def loss(w, x):
        return jnp.sum(jnp.tanh(x @ w))

    def update(w, x, laid):
        return jax.vmap(jax.vmap(lambda w: w - 0.1 * laid(jax.grad(loss)(w, x)) * jnp.cos(w)))(w)

    w, x = jax.random.normal(jax.random.key(0), (1, 3, width, width)), jax.random.normal(jax.random.key(1), (8, width))
    program = jax.jit(partial(update, laid=in_rows)).lower(w, x).compile()
    assert (" call(" in program.as_text()) == is_copied
    np.testing.assert_allclose(program(w, x), update(w, x, lambda w: w), atol=1e-5)


def test_curvature_passes_through():
    w = jax.random.normal(jax.random.key(0), (130, 130))
    gradient = jax.grad(lambda w: jnp.sum(jnp.sin(w) ** 2))
    _, times = jax.jvp(lambda w: in_rows(gradient(w)), (w,), (jnp.ones_like(w),))
    np.testing.assert_allclose(times, 2 * jnp.cos(2 * w), atol=1e-5)
