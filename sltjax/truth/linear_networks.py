"""Deep linear networks."""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import combinations, pairwise

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sltjax.truth.problem import Coefficient, Truth, whole_numbers
from sltjax.types import Batch, RngKey


def deep_linear_llc(widths: Sequence[int], rank: int) -> Coefficient:
    """λ and m of a deep linear network with a true product of rank r: the least over all true parameters.

    With M_s = H_s − r in ascending order, let Σ be the first ℓ + 1 of them with sum S < ℓ·(the next), or all:

        λ = [−r² + r(H_1 + H_{L+1})]/2 + a(ℓ − a)/(4ℓ) − (ℓ(ℓ − 1)/4)(S/ℓ)² + ½ Σ_{i<j∈Σ} M_i M_j
        m = a(ℓ − a) + 1,    a = S − (⌈S/ℓ⌉ − 1)ℓ

    (Aoyagi 2024, "Consideration on the learning efficiency of multiple-layered neural networks with linear
    units".) The local coefficient equals it only where the fibre is most degenerate, as
    in `deep_linear`: at (W_2, W_1) = (I, 0), widths 2, 2, 2 and rank 0, the local λ is 2, and this one 3/2.

    Args:
        widths: H_1, …, H_{L+1}, from input to output.
        rank: r, at most the least width.

    Raises:
        ValueError: on fewer than two widths, a width below 1, r outside [0, min H], or numbers that are not
            whole.
    """
    sizes, r = _check_shape(widths, rank)
    active = _active(sorted(size - r for size in sizes))
    depth, total = len(active) - 1, sum(active)
    a = total - (math.ceil(Fraction(total, depth)) - 1) * depth
    # (ℓ(ℓ − 1)/4)(S/ℓ)² = (ℓ − 1)S²/(4ℓ)
    llc = (
        Fraction(r * (sizes[0] + sizes[-1] - r), 2)
        + Fraction(a * (depth - a) - (depth - 1) * total**2, 4 * depth)
        + Fraction(sum(x * y for x, y in combinations(active, 2)), 2)
    )
    return llc, a * (depth - a) + 1


def _active(excess: list[int]) -> list[int]:
    """Σ: excess widths, ascending, up to the first ℓ + 1 whose sum is below ℓ times the next.

    That sum(Σ) ≥ ℓ·max(Σ) needs no check: it holds for ℓ = 1, and for ℓ + 1 where ℓ was passed over.
    """
    for depth in range(1, len(excess) - 1):
        if sum(excess[: depth + 1]) < depth * excess[depth + 1]:
            return excess[: depth + 1]
    return excess


def deep_linear(
    key: RngKey,
    widths: Sequence[int],
    rank: int,
    *,
    num_examples: int = 1000,
    noise: float = 0.0,
    singular_values: Sequence[float] | None = None,
    inputs: Callable[[RngKey, tuple[int, int]], Array] = jax.random.normal,
) -> Truth:
    """Regression by a deep linear network f(x) = x W_1 ⋯ W_L, at a most degenerate point of rank r.

        loss(x, y) = ½ |f(x) − y|²,    W_s = Q_s diag(σ^{1/L}) Q_{s+1}ᵀ,  Q_s ∈ R^{H_s × r} orthonormal

    Each layer is truncated to rank r, and the layers are aligned: the output space of one is the input space
    of the next. `deep_linear_llc` is the minimum over the fibre of true parameters, and only at such a point
    is it the local λ: what remains beside the rank-r part is a network of widths H_s − r at the zero of all
    its weights, where all parts of its fibre meet, since scaling any of its points to zero stays on the
    fibre.

    With `noise` > 0 the parameters are true but not the minimum of L_n, and λ̂ lies lower, by about λ/log n.

    Args:
        key: consumed.
        widths: H_1, …, H_{L+1}, from input to output.
        rank: r, at most the least width.
        num_examples: n, at least H_1, so that the inputs span their space.
        noise: standard deviation of the noise in each output.
        singular_values: of the product, r positive numbers; None for ones. λ does not depend on them.
        inputs: `inputs(key, shape)` draws x of shape [n, H_1] with a second moment of full rank.

    Returns:
        Truth with params [W_1, …, W_L], W_s [H_s, H_{s+1}], and data {"x": [n, H_1], "y": [n, H_{L+1}]}.

    Raises:
        ValueError: as `deep_linear_llc`; on n < H_1, negative noise, or singular values that are not r
            positive numbers.
    """
    coefficient = deep_linear_llc(widths, rank)
    (count,) = whole_numbers("num_examples", [num_examples], minimum=widths[0])
    values = _check_singular_values(singular_values, rank)
    if not noise >= 0:
        raise ValueError(f"noise: got {noise}, expected a standard deviation of at least 0")
    weights_key, input_key, noise_key = jax.random.split(key, 3)
    params = _aligned_weights(weights_key, widths, values)
    x = inputs(input_key, (count, widths[0])).astype(jnp.float32)
    y = deep_linear_apply(params, x)
    y = y + noise * jax.random.normal(noise_key, y.shape, jnp.float32)
    return Truth(_squared_error, params, {"x": x, "y": y}, *coefficient)


def deep_linear_apply(params: list[Float[Array, "..."]], x: Float[Array, "n inputs"]) -> Float[Array, "n outputs"]:
    """f(x) = x W_1 ⋯ W_L, with W_s of shape [H_s, H_{s+1}]."""
    for weight in params:
        x = x @ weight
    return x


def _squared_error(params: list[Float[Array, "..."]], batch: Batch) -> Float[Array, " batch"]:
    return jnp.sum((deep_linear_apply(params, batch["x"]) - batch["y"]) ** 2, axis=-1) / 2


def _aligned_weights(key: RngKey, widths: Sequence[int], singular_values: Array) -> list[Array]:
    keys = jax.random.split(key, len(widths))
    bases = [
        jax.random.orthogonal(k, width, dtype=jnp.float32)[:, : singular_values.size]
        for k, width in zip(keys, widths, strict=True)
    ]
    scale = singular_values ** (1 / (len(widths) - 1))
    return [(left * scale) @ right.T for left, right in pairwise(bases)]


def _check_shape(widths: Sequence[int], rank: int) -> tuple[tuple[int, ...], int]:
    sizes = whole_numbers("widths", widths, minimum=1)
    (r,) = whole_numbers("rank", [rank], minimum=0)
    if len(sizes) < 2:
        raise ValueError(f"widths: got {list(sizes)}, expected at least two, those of input and output")
    if r > min(sizes):
        raise ValueError(f"rank: got {r}, expected at most the least width {min(sizes)}; lower it or widen")
    return sizes, r


def _check_singular_values(values: Sequence[float] | None, rank: int) -> Float[Array, " rank"]:
    array = jnp.ones(rank, jnp.float32) if values is None else jnp.asarray(values, jnp.float32)
    if array.shape != (rank,) or not bool(jnp.all(jnp.isfinite(array) & (array > 0))):
        raise ValueError(f"singular_values: got {values!r}, expected {rank} positive numbers, one a rank")
    return array
