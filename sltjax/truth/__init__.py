"""Problems whose learning coefficient is known, and the rules that give it.

A constructor such as `deep_linear(key, widths, rank)` returns a `Truth`: a loss, a minimum of it, data, and
the exact local learning coefficient λ with its multiplicity m at that minimum. A rule such as
`deep_linear_llc(widths, rank)` returns the pair (λ, m) alone. What a sampler must measure at finite nβ, γ or
step size is not λ itself: `localized_llc`, `sgld_llc`, `leimkuhler_matthews_llc` and `finite_nbeta_llc` give
that value.
"""

from sltjax.truth.linear_networks import deep_linear, deep_linear_apply, deep_linear_llc
from sltjax.truth.monomials import (
    normal_crossing,
    normal_crossing_llc,
    product_llc,
    quasi_homogeneous,
    quasi_homogeneous_llc,
    radial,
    sum_llc,
    two_regions,
)
from sltjax.truth.newton_polyhedron import newton_polyhedron_llc
from sltjax.truth.problem import Truth, from_potential
from sltjax.truth.quadratic import leimkuhler_matthews_llc, localized_llc, quadratic, sgld_llc
from sltjax.truth.quadrature import finite_nbeta_llc
from sltjax.truth.regression import linear_regression, logistic_regression
from sltjax.truth.tanh_network import tanh_apply, tanh_llc, tanh_network

__all__ = [
    "Truth",
    "deep_linear",
    "deep_linear_apply",
    "deep_linear_llc",
    "finite_nbeta_llc",
    "from_potential",
    "leimkuhler_matthews_llc",
    "linear_regression",
    "localized_llc",
    "logistic_regression",
    "newton_polyhedron_llc",
    "normal_crossing",
    "normal_crossing_llc",
    "product_llc",
    "quadratic",
    "quasi_homogeneous",
    "quasi_homogeneous_llc",
    "radial",
    "sgld_llc",
    "sum_llc",
    "tanh_apply",
    "tanh_llc",
    "tanh_network",
    "two_regions",
]
