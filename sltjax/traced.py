"""λ̂ as a pure function, for the user's own jit, scan and vmap."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sltjax.calibration import Calibration
from sltjax.estimators import traced_llc
from sltjax.heat import trace_judged
from sltjax.posterior import LocalPosterior, default_nbeta
from sltjax.sampling import alone, condition_all
from sltjax.schedule import Schedule
from sltjax.types import Batch, Estimate, Loss, Params, RngKey
from sltjax.validation import count_examples, validate_loss_shape, validate_numbers

LENGTHS = ("num_chains", "num_draws", "burn_in", "thin", "batch_size")
DEFINITION = ("nbeta", "gamma", "select")


def llc_fn(loss: Loss, data: Batch, settings: Calibration | Mapping[str, Any]) -> Callable[[RngKey, Params], Estimate]:
    """λ̂ as a function (key, params) -> Estimate that may be jitted, scanned and vmapped, over seeds for instance.

    The draws are those of `sample`, to rounding. Nothing is calibrated, and weights are not looked at: NaN in them
    gives NaN. `health` has its numbers, and one message in place of a verdict, so that nothing passes for healthy that
    nobody judged; `judge` puts the numbers into words outside.

    Args:
        loss: per-example losses; in the middle of training `behavioral_loss(apply)`, because there the training loss
            has no minimum.
        data: pytree of arrays [n, ...]. The function is a `jax.tree_util.Partial` that holds them: large data is
            not compiled into a program that takes the function as an argument.
        settings: what `calibrate` chose, or a mapping: sampler, num_chains, num_draws, burn_in, thin and batch_size,
            all of them, and of the definition nbeta, gamma and select where they are not n / log n, 1 and all weights.
            `calibrate(...).settings | {"gamma": 10.0}` is both.

    Returns:
        (key, params) -> Estimate, all of whose numbers are arrays.

    Raises:
        ValueError: settings are missing, unknown or out of range.
    """
    settings = settings.settings if isinstance(settings, Calibration) else settings
    missing = [name for name in ("sampler", *LENGTHS) if settings.get(name) is None]
    unknown = sorted(set(settings) - {"sampler", *LENGTHS, *DEFINITION})
    if missing or unknown:
        raise ValueError(
            f"settings: {f'{missing} are missing' if missing else f'{unknown} are unknown'}; expected sampler, "
            f"{', '.join(LENGTHS)}, all set, since nothing can be calibrated within jit, and perhaps "
            f"{', '.join(DEFINITION)}; `sltjax.calibrate(key, posterior, data)` gives them all"
        )
    sampler, schedule = settings["sampler"], Schedule(**{name: settings[name] for name in LENGTHS})
    nbeta = settings.get("nbeta")
    nbeta = default_nbeta(count_examples(data)) if nbeta is None else nbeta
    gamma = settings.get("gamma")
    gamma = 1.0 if gamma is None else gamma
    validate_numbers(nbeta, gamma, sampler, data, schedule)

    def estimate(data: Batch, key: RngKey, params: Params) -> Estimate:
        anchor = jax.tree.map(_as_float32, params)
        posterior = LocalPosterior(loss, anchor, nbeta, gamma, select=settings.get("select"))
        validate_loss_shape(posterior, data)
        posteriors = condition_all(posterior.at(alone(anchor)), data, schedule.batch_size)
        trace = trace_judged(key, posteriors, np.zeros(1, int), sampler, data, schedule)
        return traced_llc(jax.tree.map(lambda x: x[0], trace), nbeta)

    return jax.tree_util.Partial(estimate, jax.tree.map(jnp.asarray, data))


def _as_float32(leaf: Any) -> jax.Array:
    if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
        raise TypeError(
            f"a parameter is {jnp.result_type(leaf)}, expected floating point; leave out what is not trained"
        )
    return jnp.asarray(leaf, jnp.float32)
