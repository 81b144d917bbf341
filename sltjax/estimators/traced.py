"""λ̂ from a trace within jit and vmap, where arrays cannot become words: numbers there, messages afterwards."""

import dataclasses
from operator import itemgetter

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from sltjax.convergence import rhat
from sltjax.diagnostics import drift, messages
from sltjax.estimators.learning_coefficient import HEAT_DOUBT, acceptance_doubts, heat_doubts, value_doubts
from sltjax.moments import mean
from sltjax.types import Estimate, Health, Trace

UNJUDGED = "made within jit, where its numbers cannot be put into words: sltjax.judge(estimate) does, outside"


def traced_llc(trace: Trace, nbeta: float) -> Estimate:
    """As `llc`, but as a pure function; with the one message that it has not been judged.

    The numbers are those of `llc` to rounding while all chains stay finite. Where some were lost, the others fill their
    places, and error and effective draws are set back to the number of those left: the value is exact, and its
    error never too small for it.

    Args:
        trace: with "delta_loss" [chain, draw], and "heat" [chain] and "acceptance" [chain, draw] where they are known.
        nbeta: the inverse temperature nβ at which it was sampled.
    """
    x = nbeta * trace["delta_loss"]
    bad = ~jnp.isfinite(x)
    failed = jnp.where(jnp.any(bad, axis=1), jnp.argmax(bad, axis=1), -1)
    finite = failed < 0
    count, num_chains = jnp.sum(finite), len(x)
    left = jnp.where(count > 0, count / num_chains, jnp.nan)  # NaN where all are lost, in everything that it enters
    per_chain = jnp.where(finite, jnp.mean(jnp.where(finite[:, None], x, 0.0), axis=1), jnp.nan)
    sound_first = jnp.argsort(~finite)
    filled = x[sound_first[jnp.arange(num_chains) % jnp.maximum(count, 1)]]
    over = mean(jnp.where(count > 0, filled, 0.0))
    value, std_error = jnp.nansum(per_chain) / (left * num_chains), over.std_error / jnp.sqrt(left)
    heat, doubt, share = _heat(trace, finite, value)
    return Estimate(
        value - heat,
        jnp.sqrt(std_error**2 + doubt**2),
        per_chain - heat,
        Health(
            failed,
            jnp.where(count > 0, rhat(filled), jnp.nan),
            jnp.where(count > 0, over.ess * left, 0.0),
            jnp.where(count > 0, drift(filled), jnp.nan),
            (UNJUDGED,),
            jnp.mean(trace.get("acceptance", jnp.ones(()))),
            share,
        ),
    )


def _heat(trace: Trace, finite: Array, value: Array) -> tuple[Array, Array, Array]:
    """What to take off, how well that is known, and what share it is: 0, 0 and NaN where it is not finite."""
    if "heat" not in trace:
        return jnp.zeros(()), jnp.zeros(()), jnp.zeros(())
    by_chain, count = jnp.where(finite, trace["heat"], 0.0), jnp.maximum(jnp.sum(finite), 1)
    heat = jnp.sum(by_chain) / count
    spread = jnp.sum(jnp.where(finite, (by_chain - heat) ** 2, 0.0)) / jnp.maximum(count - 1, 1)
    doubt = jnp.sqrt(spread / count + (HEAT_DOUBT * heat) ** 2)
    is_known = jnp.isfinite(heat)
    share = jnp.where(is_known, heat / jnp.maximum(jnp.abs(value), 0.5), jnp.nan)
    return jnp.where(is_known, heat, 0.0), jnp.where(is_known, doubt, 0.0), jnp.where(count > 0, share, 0.0)


def judge(estimate: Estimate) -> Estimate | list:
    """An estimate that comes from within jit, with its verdict in words.

    Args:
        estimate: as `llc_fn` returns it; with leading axes where it went through vmap or scan.

    Returns:
        The same numbers as Python's, and `health.messages`; a list along each leading axis.
    """
    estimate = jax.device_get(estimate)
    if np.ndim(estimate.value):
        return [judge(jax.tree.map(itemgetter(i), estimate)) for i in range(len(estimate.value))]
    told = estimate.health
    numbers = {name: float(getattr(told, name)) for name in ("rhat", "ess", "drift", "acceptance", "heat")}
    health = Health(np.asarray(told.failed_draw), messages=(), **numbers)
    plain = Estimate(float(estimate.value), float(estimate.std_error), np.asarray(estimate.per_chain), health)
    said = messages(health) + heat_doubts(health) + acceptance_doubts(health) + value_doubts(plain)
    return dataclasses.replace(plain, health=dataclasses.replace(health, messages=said))
