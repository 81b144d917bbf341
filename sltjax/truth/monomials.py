"""Polynomial population losses K, and the rules that give their learning coefficients."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sltjax.truth.problem import Coefficient, Truth, from_potential, whole_numbers
from sltjax.types import RngKey


def normal_crossing_llc(exponents: Sequence[int], prior_exponents: Sequence[int] | None = None) -> Coefficient:
    """λ and m at the origin of K = Π w_i^{2k_i} under a prior ≍ Π |w_i|^{h_i} (Watanabe 2009).

        λ = min_i (h_i + 1)/(2k_i),    m = number of i that reach it

    Args:
        exponents: k, whole numbers ≥ 0, not all zero; k_i = 0 is a flat direction.
        prior_exponents: h, whole numbers ≥ 0, one a variable; None for a flat prior.

    Raises:
        ValueError: on numbers that are none, negative or not whole, all k zero, or lengths that differ.
    """
    powers, priors = _crossing(exponents, prior_exponents)
    ratios = [Fraction(h + 1, 2 * k) for k, h in zip(powers, priors, strict=True) if k]
    return min(ratios), ratios.count(min(ratios))


def sum_llc(*coefficients: Coefficient) -> Coefficient:
    """(λ, m) of K1(u) + K2(v) + … in separate variables: (Σ λ, Σ m − number of terms + 1).

    Raises:
        ValueError: on no terms.
    """
    _require_terms(coefficients)
    llc = sum((llc for llc, _ in coefficients), Fraction(0))
    return llc, sum(m for _, m in coefficients) - len(coefficients) + 1


def product_llc(*coefficients: Coefficient) -> Coefficient:
    """(λ, m) of K1(u)·K2(v)·… in separate variables: the least λ, and Σ m over the factors that reach it.

    Raises:
        ValueError: on no factors.
    """
    _require_terms(coefficients)
    llc = min(llc for llc, _ in coefficients)
    return llc, sum(m for other, m in coefficients if other == llc)


def quasi_homogeneous_llc(weights: Sequence[Fraction | int]) -> Coefficient:
    """(λ, m) = (Σ a_i, 1) for K ≥ 0 with K(c^{a_1} w_1, …, c^{a_d} w_d) = c K(w) and no zero but the origin.

    For such K on all of R^d without localisation, nβ E[K] = λ exactly at every nβ, by the substitution w_i →
    w_i/nβ^{a_i}.

    Args:
        weights: a, positive rationals.

    Raises:
        ValueError: on no weights, or weights that are not positive rationals.
    """
    if not weights or not all(isinstance(a, Fraction | int) and a > 0 for a in weights):
        raise ValueError(f"weights: got {weights!r}, expected positive int or Fraction, one a variable")
    return Fraction(sum(weights)), 1


def normal_crossing(
    key: RngKey,
    exponents: Sequence[int],
    *,
    prior_exponents: Sequence[int] | None = None,
    num_examples: int = 1000,
) -> Truth:
    """Normal crossing K = Π |v_i|^{2k_i} at the origin, with v_i ∈ R^{h_i + 1}.

    The radius of a vector v_i in h_i + 1 dimensions has density ≍ |v_i|^{h_i}: so a flat prior on the vectors
    is the prior Π |w_i|^{h_i} on w_i = |v_i|, and `normal_crossing_llc` applies. Data as in `from_potential`.

    Args:
        key: consumed.
        exponents: k, whole numbers ≥ 0, not all zero.
        prior_exponents: h, whole numbers ≥ 0; None (all 0) leaves K = Π w_i^{2k_i}.
        num_examples: n.

    Returns:
        Truth with params [Σ (h_i + 1)], the vectors one after the other.

    Raises:
        ValueError: as `normal_crossing_llc`.
    """
    powers, priors = _crossing(exponents, prior_exponents)
    starts = np.cumsum([0, *(h + 1 for h in priors)])

    def potential(w: Float[Array, " d"]) -> Float[Array, ""]:
        radii = (jnp.sum(w[i:j] ** 2) for i, j in pairwise(starts))
        return jnp.prod(jnp.stack([r**k for r, k in zip(radii, powers, strict=True)]))

    coefficient = normal_crossing_llc(powers, priors)
    return _at_origin(key, potential, int(starts[-1]), coefficient, num_examples)


def radial(key: RngKey, dim: int, power: int, *, num_examples: int = 1000) -> Truth:
    """K = (Σ_{i≤r} w_i²)^k at the origin: λ = r/(2k), m = 1. Data as in `from_potential`.

    Args:
        key: consumed.
        dim: r, at least 1.
        power: k, at least 1.
        num_examples: n.

    Raises:
        ValueError: if r or k is no whole number of at least 1.
    """
    size, exponent = whole_numbers("dim, power", [dim, power], minimum=1)
    return normal_crossing(key, [exponent], prior_exponents=[size - 1], num_examples=num_examples)


def quasi_homogeneous(key: RngKey, powers: Sequence[int], *, num_examples: int = 1000) -> Truth:
    """K = ½ Σ w_i^{p_i} at the origin: λ = Σ 1/p_i, m = 1. Data as in `from_potential`.

    Args:
        key: consumed.
        powers: p, even and at least 2.
        num_examples: n.

    Raises:
        ValueError: on no powers, or powers that are not even whole numbers of at least 2.
    """
    even = whole_numbers("powers", powers, minimum=2)
    if any(p % 2 for p in even):
        raise ValueError(f"powers: got {list(even)}, expected even numbers; an odd power has no minimum")

    def potential(w: Float[Array, " d"]) -> Float[Array, ""]:
        return sum((w[i] ** p for i, p in enumerate(even)), jnp.zeros((), w.dtype)) / 2

    coefficient = quasi_homogeneous_llc([Fraction(1, p) for p in even])
    return _at_origin(key, potential, len(even), coefficient, num_examples)


def two_regions(key: RngKey, anchor: tuple[float, float], *, num_examples: int = 1000) -> Truth:
    """K = ½ μ², μ = (w_1 − 1)(w_1² + w_2²)²: local values that differ (Lau et al., arXiv 2308.12108).

        λ = ½, m = 1 on the line w_1 = 1;    λ = ¼, m = 1 at the origin

    Args:
        key: consumed.
        anchor: w*, the origin or a point of the line.
        num_examples: n.

    Raises:
        ValueError: if K is not zero at `anchor`.
    """
    at_origin = tuple(anchor) == (0.0, 0.0)
    if not at_origin and anchor[0] != 1.0:
        raise ValueError(f"anchor: got {anchor}, expected (0, 0) or a point (1, w_2)")

    def potential(w: Float[Array, " 2"]) -> Float[Array, ""]:
        return ((w[0] - 1) * (w[0] ** 2 + w[1] ** 2) ** 2) ** 2 / 2

    llc = Fraction(1, 4) if at_origin else Fraction(1, 2)
    return from_potential(key, potential, jnp.asarray(anchor, jnp.float32), (llc, 1), num_examples=num_examples)


def _at_origin(
    key: RngKey, potential: Callable[[Array], Array], dim: int, coefficient: Coefficient, num_examples: int
) -> Truth:
    return from_potential(key, potential, jnp.zeros(dim, jnp.float32), coefficient, num_examples=num_examples)


def _crossing(
    exponents: Sequence[int], prior_exponents: Sequence[int] | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    powers = whole_numbers("exponents", exponents, minimum=0)
    if not any(powers):
        raise ValueError(f"exponents: got {list(powers)}, expected at least one above 0")
    given = [0] * len(powers) if prior_exponents is None else prior_exponents
    priors = whole_numbers("prior_exponents", given, minimum=0)
    if len(priors) != len(powers):
        raise ValueError(f"prior_exponents: got {len(priors)}, expected {len(powers)}, one a variable")
    return powers, priors


def _require_terms(coefficients: Sequence[Coefficient]) -> None:
    if not coefficients:
        raise ValueError("got no coefficients, expected at least one pair (λ, m)")
