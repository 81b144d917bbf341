"""Which components of a network act on one another, and the modules that they form.

Two components that share nothing move their losses independently along the chains of the whole, and their coefficients
add up: λ(A∪B) = λ(A) + λ(B), as do those of a sum of losses in separate variables (Watanabe 2009).
"""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from flax import struct
from jaxtyping import Float

from sltjax.estimators.covariances import Recorded, correlation
from sltjax.estimators.grouping import average_linkage
from sltjax.types import Estimate


@struct.dataclass
class Interactions:
    """A graph of components: how strongly every two act on one another.

    Attributes:
        components: their names.
        value: shape [component, component], symmetric, 0 where two share nothing; NaN on the diagonal.
        std_error: its Monte-Carlo standard error; same shape.
        scale: the size of the value for two that are one; same shape.
    """

    components: tuple[str, ...] = struct.field(pytree_node=False)
    value: Float[np.ndarray, "component component"]
    std_error: Float[np.ndarray, "component component"]
    scale: Float[np.ndarray, "component component"]

    @property
    def strength(self) -> Float[np.ndarray, "component component"]:
        """The size of the interaction as a share of its scale, from 0 to 1."""
        return np.clip(np.abs(self.value) / self.scale, 0.0, 1.0)


def loss_interactions(losses: Recorded, components: Sequence[str]) -> Interactions:
    """Corr_p(L_A, L_B), where L_C is the loss with component C alone moved, along chains of the whole.

    Args:
        losses: as `observables.part_losses` records them, [chain, draw, component].
        components: the names, in the order in which they were recorded.

    Raises:
        ValueError: names and records differ in number.
    """
    if len(components) != losses.shape[2]:
        raise ValueError(f"got {len(components)} names for {losses.shape[2]} recorded components, expected one each")
    found = correlation(losses)
    off = np.where(np.eye(len(components), dtype=bool), np.nan, 1.0)
    return Interactions(tuple(components), off * found.value, off * found.std_error, np.abs(off))


def coefficient_interactions(
    alone: Mapping[str, Estimate], together: Mapping[tuple[str, str], Estimate]
) -> Interactions:
    """λ(A∪B) − λ(A) − λ(B) of refined coefficients (Wang et al., arXiv 2410.02984).

    Negative where the two can make up for one another: directions that both can move along at no loss, as when a
    layer is rescaled by the next, are counted twice in λ(A) + λ(B). Its scale is the smaller of the two coefficients.

    Args:
        alone: name -> λ̂ of chains restricted to that component, as `estimate_llc(..., select=a)` gives it.
        together: pair of names -> λ̂ of chains restricted to both, `select=a | b`; every pair once, in either order.

    Raises:
        ValueError: a pair is missing.
    """
    names = tuple(alone)
    value, std_error, scale = (np.full((len(names), len(names)), np.nan) for _ in range(3))
    for i, j in combinations(range(len(names)), 2):
        pair = names[i], names[j]
        both = together.get(pair) or together.get(pair[::-1])
        if both is None:
            raise ValueError(f"together lacks the pair {pair}; expected λ̂ for every two of {list(names)}")
        one, other = (alone[name] for name in pair)
        value[i, j] = value[j, i] = both.value - one.value - other.value
        std_error[i, j] = std_error[j, i] = np.linalg.norm([both.std_error, one.std_error, other.std_error])
        scale[i, j] = scale[j, i] = min(abs(one.value), abs(other.value))
    return Interactions(names, value, std_error, scale)


def modules(found: Interactions, *, least: float = 0.1, sigmas: float = 4.0) -> dict[str, int]:
    """The modules that the components form: by average linkage of how strongly they interact.

    Args:
        found: of `loss_interactions` or `coefficient_interactions`.
        least: the mean strength between two modules from which they are one, above 0 and below 1.
        sigmas: an interaction within so many standard errors of 0 counts as none.

    Returns:
        Name -> number of its module, in the order of the names.

    Raises:
        ValueError: an argument out of its range, or an interaction that is not known.
    """
    if not 0 < least < 1:
        raise ValueError(f"least: got {least}, expected a strength above 0 and below 1, such as 0.1")
    pairs = ~np.eye(len(found.components), dtype=bool)
    if not np.isfinite(found.strength[pairs]).all():
        raise ValueError("some interactions are not finite: leave out components whose chains were lost")
    known = np.abs(found.value) > sigmas * found.std_error
    similarity = np.where(pairs, np.where(known, found.strength, 0.0), 1.0)
    labels = average_linkage(similarity, least)
    order = {label: place for place, label in enumerate(dict.fromkeys(labels.tolist()))}
    return {name: order[label] for name, label in zip(found.components, labels.tolist(), strict=True)}
