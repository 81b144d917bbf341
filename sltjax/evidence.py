"""The evidence of a model whose prior is the localisation, by thermodynamic integration over temperatures.

    F_n = −log ∫ exp(−nL_n(w)) N(w; w*, 1/γ) dw = nL_n(w*) + ∫₀¹ n·E_β[L_n(w) − L_n(w*)] dβ

(Lartillot & Philippe 2006; Friel & Pettitt 2008.) The integrand falls from that of the prior to λ/β, over a range of β
that n and the curvature set: so β = x⁵, which spreads that range out, and Clenshaw–Curtis nodes in x, of which every
other one makes a rule of its own that tells whether they are enough.
"""

import jax
import numpy as np
from jaxtyping import Float

from sltjax.definition import ERROR, llc_curve
from sltjax.diagnostics import with_warnings
from sltjax.estimators.average import combination
from sltjax.estimators.learning_coefficient import excess
from sltjax.posterior import LocalPosterior
from sltjax.sampling import alone, condition_all
from sltjax.types import Batch, Estimate, Loss, Params, RngKey, Sampler, Trace
from sltjax.validation import as_float32, count_examples

POWER = 5  # Friel & Pettitt 2008, JRSS B 70, section 3
SIGMAS = 4.0


def thermodynamic_integration(
    key: RngKey,
    loss: Loss,
    params: Params,
    data: Batch,
    *,
    gamma: float = 1.0,
    num_temperatures: int = 24,
    sampler: Sampler | None = None,
    num_chains: int | None = None,
    num_draws: int | None = None,
    burn_in: int | None = None,
    thin: int | None = None,
    error: float = ERROR,
    max_chain_steps: int | None = None,
    max_seconds: float | None = None,
) -> Estimate:
    """−log Z_n in nats, the exact free energy of which WBIC and λ log n are expansions, for small problems.

    The prior is N(w*, 1/γ) in all directions, with its constant: models of one data set may be compared, at a γ that
    means the same to them. All temperatures and chains run in one compiled program, each step on the full data.

    Args:
        key: consumed.
        loss: (params, batch) -> negative log-likelihoods [batch], constants included.
        params: w*, the centre of the prior; a minimum is the cheapest, and none is needed.
        data: pytree of arrays [n, ...].
        gamma: γ > 0, the precision of the prior.
        num_temperatures: even; the more, the larger n times curvature over γ.
        sampler: None, here and below, for what `calibrate` chooses; as in `llc_curve`.
        num_chains: a temperature.
        num_draws: recorded draws a chain.
        burn_in: steps before the first draw.
        thin: steps a draw.
        error: the share of nβ·E[ΔL] to which its standard error is to come at every temperature.
        max_chain_steps: steps times chains that may be taken at a temperature, calibration included.
        max_seconds: the same in seconds for all of them, compilation apart.

    Returns:
        The free energy with its Monte-Carlo error; warned of where temperatures are too few for the integral.

    Raises:
        ValueError, TypeError: an argument that cannot work; the message says what would.
    """
    if not (np.isfinite(gamma) and gamma > 0):
        raise ValueError(f"gamma: got {gamma}, expected a finite precision above 0: without it there is no prior")
    n = count_examples(data)
    beta, _ = temperatures(num_temperatures)
    curve = llc_curve(
        key,
        loss,
        params,
        data,
        nbeta=n * beta,
        gamma=gamma,
        sampler=sampler,
        batch_size=n,
        num_chains=num_chains,
        num_draws=num_draws,
        burn_in=burn_in,
        thin=thin,
        error=error,
        max_chain_steps=max_chain_steps,
        max_seconds=max_seconds,
    )
    there = condition_all(LocalPosterior(loss, alone(as_float32(params)), 1.0, gamma), data, n)
    return integrated(curve.nbeta, curve.trace, n, float(there.anchor_loss[0]))


def temperatures(number: int) -> tuple[Float[np.ndarray, " grid"], Float[np.ndarray, "2 grid"]]:
    """β in ascending order, and the weights by which β·E(β) there adds up to ∫₀¹ E(β) dβ.

    Args:
        number: of temperatures, even.

    Returns:
        β, [grid], and two rules: that of all nodes, and that of every other one, which is 0 elsewhere. The node at
        β = 0 is left out, where dβ/dx = 0.

    Raises:
        ValueError: the number is odd, or below 4.
    """
    if number < 4 or number % 2:
        raise ValueError(f"num_temperatures: got {number}, expected an even number of at least 4, such as 24")
    nodes = np.cos(np.pi * np.arange(number, -1, -1) / number)
    rules = np.zeros((2, number + 1))
    rules[0], rules[1, ::2] = _clenshaw_curtis(nodes), _clenshaw_curtis(nodes[::2])
    x = (1 + nodes[1:]) / 2
    return x**POWER, POWER * rules[:, 1:] / 2 / x


def _clenshaw_curtis(nodes: Float[np.ndarray, " node"]) -> Float[np.ndarray, " node"]:
    """The weights on [−1, 1] that integrate the polynomial through the nodes exactly."""
    order = np.arange(len(nodes))
    integrals = np.where(order % 2, 0.0, 2 / (1 - np.where(order % 2, 0, order) ** 2.0))
    return np.linalg.solve(np.polynomial.chebyshev.chebvander(nodes, len(nodes) - 1).T, integrals)


def integrated(nbeta: Float[np.ndarray, " grid"], trace: Trace, num_examples: int, anchor_loss: float) -> Estimate:
    """The free energy from draws at all `temperatures`.

    Args:
        nbeta: n times these, [grid].
        trace: as `sample_block` records it, [grid, chain, draw].
        num_examples: n.
        anchor_loss: L_n(w*).
    """
    _, (weights, coarse) = temperatures(len(nbeta))
    points = [excess(jax.tree.map(lambda x, i=i: x[i], trace), float(b)) for i, b in enumerate(nbeta)]
    names = [f"at nβ = {b:.3g}" for b in nbeta]
    found = combination(weights, points, names, num_examples * anchor_loss)
    change = combination(coarse - weights, points, names)
    if not abs(change.value) > SIGMAS * change.std_error:
        return found
    said = f"half of the {len(nbeta)} temperatures give {change.value:+.2g} nats: raise num_temperatures"
    return with_warnings(found, said)
