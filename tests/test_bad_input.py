"""What cannot work is refused at the boundary: what was got, what was expected, what to do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sltjax

DATA = jnp.ones((20, 2))
GOOD = {"loss": lambda w, x: (x @ w) ** 2, "params": jnp.ones(2), "data": DATA}


def refused(error, said, **changes):
    arguments = {**GOOD, **changes}
    positional = [arguments.pop(name) for name in ("loss", "params", "data")]
    with pytest.raises(error, match=said):
        sltjax.estimate_llc(jax.random.key(0), *positional, **arguments)


@pytest.mark.parametrize(
    ("error", "said", "changes"),
    [
        (ValueError, "do not average over the batch", {"loss": lambda w, x: jnp.mean((x @ w) ** 2)}),
        (ValueError, "sum over every axis but the first", {"loss": lambda w, x: (x * w) ** 2}),
        (ValueError, "loss at the checkpoint is .*nan", {"loss": lambda w, x: jnp.log(-jnp.abs(x @ w))}),
        (ValueError, "batch_size = 21 exceeds the 20 examples", {"batch_size": 21}),
        (ValueError, "batch_size must be at least 1", {"batch_size": 0}),
        (ValueError, "holds no examples", {"data": jnp.ones((0, 2))}),
        (ValueError, "share their first axis", {"data": {"x": jnp.ones((3, 2)), "y": jnp.ones(4)}}),
        (ValueError, "share their first axis", {"data": {"x": DATA, "scale": 1.0}}),
        (ValueError, "share their first axis", {"data": {}}),
        (ValueError, "num_draws must be at least 4", {"num_draws": 1}),
        (ValueError, "num_chains must be at least 2", {"num_chains": 1}),
        (ValueError, "lower burn_in or raise num_draws", {"num_draws": 10, "thin": 1, "burn_in": 11}),
        (ValueError, "burn_in must be at least 0", {"burn_in": -1}),
        (ValueError, "thin must be at least 1", {"thin": 0}),
        (ValueError, "holds 1 values that are not finite", {"params": jnp.array([1.0, jnp.nan])}),
        (TypeError, "the array of parameters is int32, expected floating point", {"params": jnp.ones(2, int)}),
        (ValueError, "hold no arrays", {"params": {}}),
        (ValueError, "step_size must be positive", {"sampler": sltjax.SGLD(0.0)}),
        (ValueError, "step_size must be positive", {"sampler": sltjax.SGLD(-1e-3)}),
        (ValueError, "step_size must be positive", {"sampler": sltjax.LeimkuhlerMatthews(float("nan"))}),
        (ValueError, "persistence must be at least 0 and under 1", {"sampler": sltjax.GHMC(0.1, persistence=1.0)}),
        (ValueError, "friction must be above 0 and at most 1", {"sampler": sltjax.SGHMC(0.1, friction=0.0)}),
        (ValueError, "nbeta must be positive", {"nbeta": 0.0}),
        (ValueError, "nbeta must be positive", {"nbeta": -3.0}),
        (ValueError, "nbeta must be positive", {"nbeta": float("nan")}),
        (ValueError, "nbeta must be positive", {"nbeta": float("inf")}),
        (ValueError, "gamma must be finite and not negative", {"gamma": -1.0}),
        (ValueError, "gamma must be finite and not negative", {"gamma": float("nan")}),
        (ValueError, "at least 2 examples", {"data": jnp.ones((1, 2))}),
    ],
)
def test_refused(error, said, changes):
    """Trust 14."""
    refused(error, said, **changes)


RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("error", "said", "loss"),
    [
        (ValueError, "no pure function: it gave", lambda w, x: (x @ w) ** 2 + RANDOM.normal()),
        (TypeError, "no pure function of jax arrays", lambda w, x: (x @ w) ** 2 if w[0] > 0 else x @ w),
        (TypeError, "no pure function of jax arrays", lambda w, x: np.square(np.asarray(x @ w))),
        (TypeError, "no pure function of jax arrays", lambda w, x: (x @ w) ** 2 * w[0].item()),
    ],
)
def test_a_loss_is_a_pure_function(error, said, loss):
    """Trust 14."""
    refused(error, said, loss=loss)


def test_momentum_may_be_forgotten_at_every_step():
    quick = {"num_draws": 20, "thin": 1, "burn_in": 5}
    sampler = sltjax.GHMC(0.1, persistence=0.0)
    estimate = sltjax.estimate_llc(
        jax.random.key(0), lambda w, x: (x @ w) ** 2, jnp.zeros(2), DATA, sampler=sampler, **quick
    )
    assert jnp.isfinite(estimate.value)


def test_a_checkpoint_names_the_bad_parameter():
    loss = sltjax.behavioral_loss(lambda p, x: x @ p["dense"]["kernel"])
    params = {"dense": {"kernel": jnp.full((2, 3), jnp.inf)}}
    refused(ValueError, r"\['dense'\]\['kernel'\] holds 6 values", loss=loss, params=params)
