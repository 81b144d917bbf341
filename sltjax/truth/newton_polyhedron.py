"""Learning coefficients from the Newton polyhedron: an exact linear programme."""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from sltjax.truth.problem import Coefficient, whole_numbers

_MAX_DENOMINATOR = 10**6
_TOLERANCE = 1e-7


def newton_polyhedron_llc(
    exponents: Sequence[Sequence[int]], prior_exponents: Sequence[int] | None = None
) -> Coefficient:
    """λ and m at the origin of K ≍ Σ_k w^{2a_k} under a prior ≍ Π |w_i|^{h_i}.

        λ = min { Σ_i (h_i + 1) u_i : u ≥ 0, ⟨u, a_k⟩ ≥ ½ for all k },    m = dim(optimal face) + 1

    The optimum is rounded to rationals and certified in exact arithmetic by a dual solution of equal value. A
    polynomial K whose terms cancel (one that is degenerate on a face of its polyhedron) is not of this form.
    (Varchenko 1976; Arnold, Gusein-Zade & Varchenko, Singularities of Differentiable Maps II.)

    Args:
        exponents: a, shape [monomials, d]: halves of the exponents in K, whole numbers ≥ 0, no row all zero.
        prior_exponents: h, shape [d], whole numbers ≥ 0; None for a flat prior.

    Returns:
        (λ, m).

    Raises:
        ValueError: on rows that are empty, of unequal length or all zero, or on numbers that are negative or
            not whole, or priors of another length.
        ArithmeticError: if no rational solution with denominator up to 10⁶ can be certified.
    """
    rows = _rows(exponents)
    prior = prior_exponents if prior_exponents is not None else [0] * rows.shape[1]
    cost = np.array(whole_numbers("prior_exponents", prior, minimum=0)) + 1
    if cost.size != rows.shape[1]:
        raise ValueError(f"prior_exponents: got {cost.size}, expected {rows.shape[1]}, one a variable")
    llc = _certified_optimum(rows, cost)
    return llc, _optimal_face_dim(rows, cost, float(llc)) + 1


def _rows(exponents: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    rows = [whole_numbers("exponents", row, minimum=0) for row in exponents]
    if not rows or len({len(row) for row in rows}) != 1:
        raise ValueError(f"exponents: got {exponents!r}, expected one or more rows of equal length")
    if not all(any(row) for row in rows):
        raise ValueError("exponents: got a row of zeros, for which K does not vanish at the origin; remove it")
    return np.array(rows)


def _certified_optimum(rows: NDArray[np.int64], cost: NDArray[np.int64]) -> Fraction:
    """The optimal value, proved by weak duality: feasible primal and dual points of the same value."""
    solution = linprog(cost, A_ub=-rows, b_ub=np.full(len(rows), -0.5), method="highs-ds")
    if solution.status != 0:
        raise ArithmeticError(f"linear programme failed: {solution.message}")
    u = [Fraction(float(x)).limit_denominator(_MAX_DENOMINATOR) for x in solution.x]
    t = [Fraction(-float(x)).limit_denominator(_MAX_DENOMINATOR) for x in solution.ineqlin.marginals]
    value = sum((int(c) * x for c, x in zip(cost, u, strict=True)), Fraction(0))
    half = Fraction(1, 2)
    primal = min(u) >= 0 and all(_dot(row, u) >= half for row in rows)
    dual = min(t) >= 0 and all(_dot(column, t) <= int(c) for column, c in zip(rows.T, cost, strict=True))
    if not (primal and dual and sum(t) * half == value):
        raise ArithmeticError(f"no certified rational optimum near {solution.fun}; use smaller exponents")
    return value


def _dot(integers: NDArray[np.int64], fractions: Sequence[Fraction]) -> Fraction:
    return sum((int(a) * x for a, x in zip(integers, fractions, strict=True)), Fraction(0))


def _optimal_face_dim(rows: NDArray[np.int64], cost: NDArray[np.int64], optimum: float) -> int:
    """Dimension d minus the rank of the constraints that hold with equality on all of the optimal face."""
    constraints = np.vstack([rows, np.eye(len(cost), dtype=int)])
    bounds = np.concatenate([np.full(len(rows), 0.5), np.zeros(len(cost))])
    tight = [
        row
        for row, bound in zip(constraints, bounds, strict=True)
        if _largest_on_face(row, rows, cost, optimum) - bound < _TOLERANCE
    ]
    return len(cost) - int(np.linalg.matrix_rank(np.vstack([cost, *tight])))


def _largest_on_face(objective: NDArray, rows: NDArray[np.int64], cost: NDArray[np.int64], optimum: float) -> float:
    # The face is bounded since every cost is positive, so the maximum exists.
    face = linprog(
        -objective,
        A_ub=np.vstack([-rows, cost]),
        b_ub=np.append(np.full(len(rows), -0.5), optimum * (1 + 1e-12)),
        method="highs",
    )
    if face.status != 0:
        raise ArithmeticError(f"linear programme on the optimal face failed: {face.message}")
    return -face.fun
