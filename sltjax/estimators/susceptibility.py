"""How each component of a network answers to each kind of data (Baker et al., arXiv 2504.18274).

χ = −Cov_C(φ_C, ΔL') = (1/nβ)·d⟨φ_C⟩/dh,    φ_C = L(w) − L(w*) along chains that move component C alone, the rest
at w*, where h shifts the data by the loss ΔL' = L' − L. Shifted towards one example x: ΔL' = ℓ_x − L.
"""

from collections.abc import Mapping

import numpy as np
from flax import struct
from jaxtyping import Float

from sltjax.estimators.covariances import Covariance, covariance
from sltjax.types import Health, Trace


@struct.dataclass
class Susceptibilities:
    """The answer of each component to each example, or each set of data.

    Attributes:
        components: their names.
        value: χ, shape [component, example]; NaN where no chain stayed finite.
        std_error: its Monte-Carlo standard error; same shape. Components have chains of their own: their errors are
            independent on full data.
        health: of each component's chains.
    """

    components: tuple[str, ...] = struct.field(pytree_node=False)
    value: Float[np.ndarray, "component example"]
    std_error: Float[np.ndarray, "component example"]
    health: tuple[Health, ...]


def susceptibilities(
    traces: Mapping[str, Trace],
    losses: str = "losses",
    *,
    mean_loss: str | None = None,
    groups: Float[np.ndarray, "group example"] | None = None,
) -> Susceptibilities:
    """χ of every component for every example, −Cov_C(φ_C, ℓ_x − L) (Baker et al., arXiv 2504.18274).

    Positive where data like x, were there more of it, would make the component's loss larger: its posterior moves so
    as to lower ℓ_x, at the cost of the rest. For a shift h of the weight of x, d⟨φ_C⟩/dh = nβ·χ.

    Args:
        traces: name of the component -> trace of chains restricted to it (`select` of the posterior, or `restrict`),
            with "delta_loss" [chain, draw] and per-example losses [chain, draw, example] on the same examples.
        losses: under which name `observables.losses` recorded them.
        mean_loss: the name of L along the chains [chain, draw], to a constant; None for the mean of the recorded
            examples, which then ought to be a sample of the data. "delta_loss" is exact where batches were the full
            data, and no other: the noise of smaller ones would count as covariance.
        groups: weights [group, example] of sets of data, for χ of ΔL' = Σ_x weight·ℓ_x − L; rows sum to 1. None for
            each example alone.

    Raises:
        ValueError: no trace is given, one lacks a record, or their examples differ in number.
    """
    if not traces:
        raise ValueError("no traces given, expected a mapping of names to the traces of restricted chains")
    found = [_of_component(name, trace, losses, mean_loss, groups) for name, trace in traces.items()]
    if len({len(each.value[0]) for each in found}) > 1:
        sizes = {name: len(each.value[0]) for name, each in zip(traces, found, strict=True)}
        raise ValueError(f"got other numbers of examples for other components, {sizes}; expected the same examples")
    return Susceptibilities(
        tuple(traces),
        -np.concatenate([each.value for each in found]),
        np.concatenate([each.std_error for each in found]),
        tuple(each.health for each in found),
    )


def _of_component(
    name: str, trace: Trace, losses: str, mean_loss: str | None, groups: Float[np.ndarray, "group example"] | None
) -> Covariance:
    needed = ["delta_loss", losses, *([mean_loss] if mean_loss else [])]
    if missing := [record for record in needed if record not in trace]:
        raise ValueError(
            f"the trace of {name!r} holds {sorted(trace)}, expected {missing} as well; record them among observables"
        )
    recorded = np.asarray(trace[losses], np.float64)
    mean = recorded.mean(axis=2) if mean_loss is None else np.asarray(trace[mean_loss], np.float64)
    shifted = recorded if groups is None else recorded @ np.asarray(groups, np.float64).T
    with np.errstate(invalid="ignore"):  # ∞ − ∞ where a chain was lost, which `covariance` leaves out
        away = shifted - mean[:, :, None]
    return covariance(np.asarray(trace["delta_loss"])[:, :, None], away)


@struct.dataclass
class Structure:
    """A low-rank view of susceptibilities: which components answer alike to which data.

    Attributes:
        standardised: each component's row less its mean, by its standard deviation over the examples.
        std_error: in the same units.
        components: loadings of the components, orthonormal columns, the largest of each positive, [component, factor].
        examples: scores of the examples, [example, factor]: standardised ≈ components · examplesᵀ.
        explained: the share of the variance in each factor, the largest first.
    """

    standardised: Float[np.ndarray, "component example"]
    std_error: Float[np.ndarray, "component example"]
    components: Float[np.ndarray, "component factor"]
    examples: Float[np.ndarray, "example factor"]
    explained: Float[np.ndarray, " factor"]


def structure(found: Susceptibilities, num_factors: int = 2) -> Structure:
    """Standardise every component's row, and take the singular value decomposition: structural inference.

    Args:
        found: of `susceptibilities`, finite.
        num_factors: how many factors.

    Raises:
        ValueError: the number of factors is not between 1 and that of components or examples, or χ is not finite.
    """
    most = min(found.value.shape)
    if not 1 <= num_factors <= most:
        raise ValueError(f"num_factors: got {num_factors}, expected 1 to {most}, the fewer of components and examples")
    scale = found.value.std(axis=1, keepdims=True)
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        lost = [name for name, s in zip(found.components, scale[:, 0], strict=True) if not s > 0]
        raise ValueError(f"the susceptibilities of {lost} are not finite, or the same for all data: leave them out")
    standardised = (found.value - found.value.mean(axis=1, keepdims=True)) / scale
    left, singular, right = np.linalg.svd(standardised, full_matrices=False)
    kept = slice(num_factors)
    sign = np.sign(left[np.abs(left).argmax(axis=0), np.arange(len(singular))])
    left, right = left * sign, right * sign[:, None]
    return Structure(
        standardised,
        found.std_error / scale,
        left[:, kept],
        right[kept].T * singular[kept],
        (singular**2 / np.sum(singular**2))[kept],
    )
