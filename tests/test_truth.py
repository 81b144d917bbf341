"""Known learning coefficients: rules against second derivations, constructors against common laws."""

import itertools
import math
from fractions import Fraction as F
from functools import partial

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from sltjax import truth
from sltjax.truth import Truth

HALF = F(1, 2)

CASES = {
    "quadratic": partial(truth.quadratic, curvatures=[1.0, 0.1, 0.0]),
    "quadratic with batch noise": partial(
        truth.quadratic, curvatures=[2.0, 0.5], gradient_noise=0.7, curvature_noise=0.5, num_examples=101
    ),
    "from_potential": partial(
        truth.from_potential,
        potential=lambda w: (w["u"] * w["v"] - 1) ** 2,
        params={"u": jnp.float32(2.0), "v": jnp.float32(0.5)},
        coefficient=(HALF, 1),
    ),
    "normal_crossing": partial(truth.normal_crossing, exponents=[1, 1]),
    "normal_crossing with prior": partial(truth.normal_crossing, exponents=[1, 2, 0], prior_exponents=[0, 2, 1]),
    "radial": partial(truth.radial, dim=3, power=2),
    "quasi_homogeneous": partial(truth.quasi_homogeneous, powers=[2, 4]),
    "two_regions, line": partial(truth.two_regions, anchor=(1.0, 0.0)),
    "two_regions, origin": partial(truth.two_regions, anchor=(0.0, 0.0)),
    "tanh_network": partial(truth.tanh_network, hidden=3),
    "deep_linear": partial(truth.deep_linear, widths=[4, 3, 5], rank=2, singular_values=[2.0, 0.5]),
    "deep_linear, rank 0": partial(truth.deep_linear, widths=[3, 2, 2, 3], rank=0),
    "deep_linear, one layer, uniform inputs": partial(
        truth.deep_linear,
        widths=[3, 2],
        rank=2,
        inputs=lambda key, shape: jax.random.uniform(key, shape) - 0.5,
    ),
}


@pytest.fixture(params=CASES, scope="module")
def case(request) -> Truth:
    return CASES[request.param](jax.random.key(0))


def mean_loss(case: Truth, params):
    return jax.jit(case.loss)(params, case.data).mean()


def hessian(case: Truth, params) -> np.ndarray:
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    return np.asarray(jax.jit(jax.hessian(lambda w: mean_loss(case, unravel(w))))(flat), float)


# Laws of every constructor


def test_loss_has_one_entry_an_example(case):
    batch = jax.tree.map(lambda leaf: leaf[:7], case.data)
    assert jax.eval_shape(case.loss, case.params, batch).shape == (7,)
    assert jax.eval_shape(case.loss, case.params, case.data).shape == (case.num_examples,)


def test_params_and_data_are_float32(case):
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((case.params, case.data)))


def test_params_are_a_minimum_of_zero(case):
    value, gradient = jax.jit(jax.value_and_grad(partial(mean_loss, case)))(case.params)
    assert abs(value) < 1e-9
    assert all(np.abs(leaf).max() < 1e-6 for leaf in jax.tree.leaves(gradient))
    flat, unravel = jax.flatten_util.ravel_pytree(case.params)
    around = flat + 0.3 * np.random.default_rng(1).normal(size=(10, flat.size)).astype(np.float32)
    assert np.all(jax.jit(jax.vmap(lambda w: mean_loss(case, unravel(w))))(around) > 0)


def test_coefficient_lies_between_its_bounds(case):
    eigenvalues = np.linalg.eigvalsh(hessian(case, case.params))
    dim = eigenvalues.size
    assert isinstance(case.llc, F)
    assert isinstance(case.multiplicity, int)
    assert HALF * int(np.sum(eigenvalues > 1e-4)) <= case.llc <= HALF * dim
    assert 1 <= case.multiplicity <= dim


def test_constructors_depend_on_the_key_alone():
    for build in (CASES["deep_linear"], CASES["quadratic with batch noise"]):
        first, again, other = (build(jax.random.key(seed)).data for seed in (0, 0, 1))
        same = jax.tree.map(lambda a, b: bool(jnp.all(a == b)), first, again)
        differ = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), first, other)
        assert all(jax.tree.leaves(same))
        assert all(jax.tree.leaves(differ))


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (partial(truth.quadratic, curvatures=[]), "curvatures"),
        (partial(truth.quadratic, curvatures=[-1.0]), "curvatures"),
        (partial(truth.quadratic, curvatures=[float("nan")]), "curvatures"),
        (partial(truth.quadratic, curvatures=[1.0], gradient_noise=-1.0), "gradient_noise"),
        (partial(truth.quadratic, curvatures=[1.0], curvature_noise=0.6), "curvature_noise"),
        (partial(truth.quadratic, curvatures=[1.0], num_examples=1), "num_examples"),
        (
            partial(truth.from_potential, potential=jnp.cos, params=jnp.float32(0.0), coefficient=(HALF, 1)),
            "expected 0",
        ),
        (partial(truth.normal_crossing, exponents=[]), "empty"),
        (partial(truth.normal_crossing, exponents=[0, 0]), "above 0"),
        (partial(truth.normal_crossing, exponents=[-1]), "at least 0"),
        (partial(truth.normal_crossing, exponents=[1.5]), "whole|Type-check"),
        (partial(truth.normal_crossing, exponents=[1], prior_exponents=[1, 1]), "one a variable"),
        (partial(truth.normal_crossing, exponents=[1], num_examples=0), "num_examples"),
        (partial(truth.radial, dim=0, power=1), "dim, power"),
        (partial(truth.quasi_homogeneous, powers=[]), "empty"),
        (partial(truth.quasi_homogeneous, powers=[2, 3]), "even"),
        (partial(truth.quasi_homogeneous, powers=[2.0]), "whole|Type-check"),
        (partial(truth.two_regions, anchor=(0.5, 0.0)), "anchor"),
        (partial(truth.tanh_network, hidden=0), "hidden"),
        (partial(truth.tanh_network, hidden=5, num_examples=4), "num_examples"),
        (partial(truth.deep_linear, widths=[], rank=0), "empty"),
        (partial(truth.deep_linear, widths=[3], rank=0), "at least two"),
        (partial(truth.deep_linear, widths=[3, 2, 3], rank=3), "least width 2"),
        (partial(truth.deep_linear, widths=[3, 2, 3], rank=-1), "rank"),
        (partial(truth.deep_linear, widths=[3, 0, 3], rank=0), "widths"),
        (partial(truth.deep_linear, widths=[3, 2.5, 3], rank=0), "whole|Type-check"),
        (partial(truth.deep_linear, widths=[9, 9], rank=1, num_examples=8), "num_examples"),
        (partial(truth.deep_linear, widths=[2, 2], rank=1, noise=-1.0), "noise"),
        (partial(truth.deep_linear, widths=[2, 2], rank=1, singular_values=[1.0, 1.0]), "singular_values"),
        (partial(truth.deep_linear, widths=[2, 2], rank=1, singular_values=[0.0]), "singular_values"),
    ],
)
def test_constructors_reject(build, match):
    # Under runtime type checking a wrong type is refused before the function's own check.
    with pytest.raises((ValueError, TypeError), match=match):
        build(jax.random.key(0))


@pytest.mark.parametrize(
    ("rule", "match"),
    [
        (lambda: truth.sum_llc(), "no coefficients"),
        (lambda: truth.product_llc(), "no coefficients"),
        (lambda: truth.quasi_homogeneous_llc([]), "weights"),
        (lambda: truth.quasi_homogeneous_llc([0.25]), "weights|Type-check"),
        (lambda: truth.newton_polyhedron_llc([]), "one or more rows"),
        (lambda: truth.newton_polyhedron_llc([[1, 0], [1]]), "equal length"),
        (lambda: truth.newton_polyhedron_llc([[0, 0]]), "zeros"),
        (lambda: truth.newton_polyhedron_llc([[1, 0]], [1]), "one a variable"),
        (lambda: truth.finite_nbeta_llc(np.sum, 1.0, [(-1.0, 1.0)] * 3), "1 or 2"),
        (lambda: truth.finite_nbeta_llc(np.sum, 1.0, [(1.0, 2.0)]), "bounds"),
        (lambda: truth.finite_nbeta_llc(np.sum, 0.0, [(-1.0, 1.0)]), "nβ > 0"),
        (lambda: truth.localized_llc([1.0], -1.0, 1.0), "nbeta"),
        (lambda: truth.localized_llc([1.0], 1.0, -1.0), "gamma"),
        (lambda: truth.sgld_llc([1.0], 1.0, 0.0, 4.0), "unstable"),
        (lambda: truth.leimkuhler_matthews_llc([1.0], 1.0, 0.0, 4.0), "unstable"),
        (lambda: truth.sgld_llc([1.0], 1.0, 0.0, 3.0, 0.0, 1, 2.0), "unstable"),
        (lambda: truth.sgld_llc([1.0], 1.0, 0.0, -1.0), "step_size"),
        (lambda: truth.sgld_llc([1.0], 1.0, 0.0, 1.0, 1.0, 0), "batch_size"),
        (lambda: Truth(jnp.sum, 0.0, {"x": jnp.ones(3), "y": jnp.ones(4)}, HALF, 1), "leading axes"),
        (lambda: Truth(jnp.sum, 0.0, {"x": jnp.ones(3)}, HALF, 0), "m ≥ 1"),
    ],
)
def test_rules_reject(rule, match):
    # Under runtime type checking a wrong type is refused before the function's own check.
    with pytest.raises((ValueError, TypeError), match=match):
        rule()


# Polynomials


@pytest.mark.parametrize(
    ("exponents", "prior", "expected"),
    [
        ([1], None, (HALF, 1)),
        ([2], None, (F(1, 4), 1)),
        ([1, 1], None, (HALF, 2)),
        ([1, 1, 1], None, (HALF, 3)),
        ([1, 2], None, (F(1, 4), 1)),
        ([2, 2, 1], None, (F(1, 4), 2)),
        ([1, 2], [0, 1], (HALF, 2)),
        ([3, 2, 0], [2, 1, 0], (HALF, 2)),
    ],
)
def test_normal_crossings(exponents, prior, expected):
    assert truth.normal_crossing_llc(exponents, prior) == expected
    assert truth.newton_polyhedron_llc([exponents], prior) == expected
    built = truth.normal_crossing(jax.random.key(0), exponents, prior_exponents=prior)
    assert (built.llc, built.multiplicity) == expected


def test_sum_and_product_rules():
    crossing, quartic = truth.normal_crossing_llc([1, 1]), truth.normal_crossing_llc([2])
    assert truth.sum_llc(crossing, quartic) == (F(3, 4), 2)
    assert truth.sum_llc(crossing, crossing, crossing) == (F(3, 2), 4)
    assert truth.product_llc(crossing, quartic) == (F(1, 4), 1)
    assert truth.product_llc(crossing, (HALF, 1)) == (HALF, 3)


def test_rules_agree_with_the_newton_polyhedron_on_random_monomials():
    rng = np.random.default_rng(0)
    for _ in range(20):
        first, second = rng.integers(0, 4, (2, 2)).tolist()
        first[0] += 1
        second[1] += 1
        parts = truth.normal_crossing_llc([*first]), truth.normal_crossing_llc([*second])
        separate = [[*first, 0, 0], [0, 0, *second]]
        assert truth.newton_polyhedron_llc(separate) == truth.sum_llc(*parts)
        assert truth.newton_polyhedron_llc([[*first, *second]]) == truth.product_llc(*parts)


@pytest.mark.parametrize(
    ("exponents", "expected"),
    [
        ([[1, 0], [0, 1]], (F(1), 1)),
        ([[1, 0], [0, 2]], (F(3, 4), 1)),
        ([[2, 0], [0, 2]], (HALF, 1)),
        # x⁴ + x²y² + y⁴: (1, 1) lies on one edge alone
        ([[2, 0], [1, 1], [0, 2]], (HALF, 1)),
        # x⁸ + x²y² + y⁸: (1, 1) is a vertex, so the pole is double
        ([[4, 0], [1, 1], [0, 4]], (HALF, 2)),
        ([[3, 0], [0, 2]], (F(5, 12), 1)),
        ([[2, 1], [1, 3]], (F(3, 10), 1)),
        # (xy)² + (yz)² + (zx)²: u = ¼ each
        ([[1, 1, 0], [0, 1, 1], [1, 0, 1]], (F(3, 4), 1)),
        # (xy)² + (xz)² = x²(y² + z²)
        ([[1, 1, 0], [1, 0, 1]], (HALF, 1)),
    ],
)
def test_newton_polyhedra(exponents, expected):
    assert truth.newton_polyhedron_llc(exponents) == expected


@pytest.mark.parametrize(("dim", "power"), [(1, 1), (3, 1), (3, 2), (5, 3)])
def test_power_of_a_norm(dim, power):
    built = truth.radial(jax.random.key(0), dim, power)
    assert (built.llc, built.multiplicity) == (F(dim, 2 * power), 1)
    w = jnp.arange(1.0, dim + 1)
    np.testing.assert_allclose(mean_loss(built, w), jnp.sum(w**2) ** power, rtol=1e-5)


def test_quasi_homogeneous_polynomials():
    assert truth.quasi_homogeneous(jax.random.key(0), [2, 4]).llc == F(3, 4)
    assert truth.quasi_homogeneous(jax.random.key(0), [2, 4, 6, 2]).llc == F(17, 12)
    assert truth.quasi_homogeneous_llc([F(1, 4), F(1, 4)]) == truth.newton_polyhedron_llc([[2, 0], [0, 2]])


def test_two_regions_have_two_values():
    line, origin = (truth.two_regions(jax.random.key(0), w).llc for w in [(1.0, 0.3), (0.0, 0.0)])
    assert (line, origin) == (HALF, F(1, 4))
    assert origin == truth.radial(jax.random.key(0), 2, 4).llc


# Finite nβ


@pytest.mark.parametrize(("nbeta", "value"), [(1e2, 0.348), (1e3, 0.387), (1e4, 0.411), (1e6, 0.437), (1e8, 0.451)])
def test_double_pole_at_finite_nbeta(nbeta, value):
    got = truth.finite_nbeta_llc(lambda w: w[..., 0] ** 2 * w[..., 1] ** 2, nbeta, [(-1.0, 1.0), (-1.0, 1.0)])
    assert abs(got - value) < 1e-3


@pytest.mark.parametrize("nbeta", [1e2, 1e4, 1e7])
@pytest.mark.parametrize(
    ("potential", "llc"),
    [
        (lambda w: w[..., 0] ** 4, F(1, 4)),
        (lambda w: w[..., 0] ** 2 / 2 + w[..., 1] ** 4 / 2, F(3, 4)),
        (lambda w: w[..., 0] ** 4 + w[..., 0] ** 2 * w[..., 1] ** 2 + w[..., 1] ** 4, HALF),
        (lambda w: w[..., 0] ** 6 + w[..., 1] ** 4, F(5, 12)),
        (lambda w: (w[..., 0] ** 2 + w[..., 1] ** 2) ** 2, HALF),
    ],
)
def test_quasi_homogeneous_is_exact_at_every_nbeta(potential, llc, nbeta):
    # With nβ ≥ 100 the box of ±10 cuts off less than exp(−10⁶).
    dim = 1 if llc == F(1, 4) else 2
    assert abs(truth.finite_nbeta_llc(potential, nbeta, [(-10.0, 10.0)] * dim) - llc) < 1e-4


def test_local_values_of_two_regions():
    def potential(w):
        return ((w[..., 0] - 1) * (w[..., 0] ** 2 + w[..., 1] ** 2) ** 2) ** 2 / 2

    line = truth.finite_nbeta_llc(potential, 1e8, [(0.8, 1.2), (-0.2, 0.2)], center=(1.0, 0.0))
    origin = truth.finite_nbeta_llc(potential, 1e12, [(-0.5, 0.5), (-0.5, 0.5)])
    assert abs(line - 0.5) < 1e-3
    assert abs(origin - 0.25) < 1e-3


def test_localisation_by_quadrature_is_the_quadratic_formula():
    curvatures = np.array([1.0, 0.01])
    got = truth.finite_nbeta_llc(lambda w: w**2 @ curvatures / 2, 1e4, [(-3.0, 3.0), (-3.0, 3.0)], gamma=50.0)
    assert abs(got - truth.localized_llc(curvatures, 1e4, 50.0)) < 1e-4


def test_quadrature_refuses_what_it_cannot_resolve():
    with pytest.raises(ArithmeticError, match="rotate"):
        truth.finite_nbeta_llc(lambda w: (w[..., 0] - w[..., 1]) ** 2, 1e8, [(-1.0, 1.0), (-1.0, 1.0)])


# Tanh networks


@pytest.mark.parametrize(("hidden", "expected"), [(1, (HALF, 2)), (2, (F(2, 3), 1)), (4, (F(1), 2)), (9, (F(3, 2), 2))])
def test_tanh_values(hidden, expected):
    assert truth.tanh_llc(hidden) == expected


@pytest.mark.parametrize("hidden", range(1, 11))
def test_tanh_rule_against_the_blown_up_polyhedron(hidden):
    """At generic t in b_i = b t_i, K ≍ Σ_k b^{2(2k−1)} A_k² with A linear in a, and Jacobian b^{H−1}."""
    rows = [[2 * k + 1, *(int(j == k) for j in range(hidden))] for k in range(hidden)]
    prior = [hidden - 1] + [0] * hidden
    assert truth.newton_polyhedron_llc(rows, prior) == truth.tanh_llc(hidden)


def test_tanh_network_is_odd_in_each_layer():
    built = truth.tanh_network(jax.random.key(0), 3)
    params = {"a": jnp.array([1.0, -2.0, 0.5]), "b": jnp.array([0.3, 1.0, -1.0])}
    x = built.data["x"]
    np.testing.assert_allclose(truth.tanh_apply(params, -x), -truth.tanh_apply(params, x), atol=1e-6)
    np.testing.assert_allclose(built.loss(params, built.data), truth.tanh_apply(params, x) ** 2 / 2, rtol=1e-6)


# Deep linear networks

TABLE = [
    ([2, 2, 2], 0, F(3, 2), 1),
    ([2, 2, 2], 1, F(2), 2),
    ([2, 1, 2], 0, F(1), 2),
    ([5, 3, 5], 2, F(19, 2), 2),
    ([3, 8, 4], 0, F(6), 1),
    ([10, 5, 10], 3, F(32), 1),
    ([8, 6, 8], 2, F(24), 1),
    ([20, 10, 15, 20], 5, F(225, 2), 1),
    ([10, 20, 10], 4, F(50), 1),
    ([1, 1, 1, 1], 0, HALF, 3),
    ([4, 4, 4, 4], 2, F(15, 2), 3),
    ([5, 5, 5, 5, 5], 2, F(11), 4),
    ([3, 3, 3, 3, 3, 3], 1, F(4), 7),
    ([10, 8, 6, 8, 10], 3, F(32), 2),
    ([100, 100, 100, 100, 100], 50, F(9063, 2), 5),
    ([185, 259, 286, 885, 235, 204, 274, 252], 100, F(20889), 3),
    # 6-6-6-6, 10-5-10, 7-4-9 and the staircase 10-4-10 at rank 0 … 4
    ([6, 6, 6, 6], 2, F(31, 2), 3),
    ([10, 5, 10], 0, F(22), 2),
    ([7, 4, 9], 2, F(19), 1),
    ([10, 4, 10], 0, F(18), 1),
    ([10, 4, 10], 1, F(22), 2),
    ([10, 4, 10], 2, F(51, 2), 1),
    ([10, 4, 10], 3, F(29), 2),
    ([10, 4, 10], 4, F(32), 1),
]


@pytest.mark.parametrize(("widths", "rank", "llc", "multiplicity"), TABLE)
def test_deep_linear_table(widths, rank, llc, multiplicity):
    assert truth.deep_linear_llc(widths, rank) == (llc, multiplicity)


def reduced_rank_regression(m, h, n, r):
    """Aoyagi & Watanabe 2005, Theorem: input m, hidden h, output n, true rank r."""
    if m + h < n + r:
        return F(h * m - h * r + n * r, 2), 1
    if n + h < m + r:
        return F(h * n - h * r + m * r, 2), 1
    if m + n < h + r:
        return F(m * n, 2), 1
    eight = -((h + r) ** 2) - m**2 - n**2 + 2 * (h + r) * (m + n) + 2 * m * n
    return (F(eight, 8), 1) if (m + h + n + r) % 2 == 0 else (F(eight + 1, 8), 2)


def test_two_layers_are_reduced_rank_regression():
    cases = [(m, h, n, r) for m, h, n in itertools.product(range(1, 10), repeat=3) for r in range(min(m, h, n) + 1)]
    assert len(cases) > 2000
    for m, h, n, r in cases:
        assert truth.deep_linear_llc([m, h, n], r) == reduced_rank_regression(m, h, n, r), (m, h, n, r)


def test_one_layer_is_regular():
    assert truth.deep_linear_llc([3, 5], 0) == truth.deep_linear_llc([3, 5], 2) == (F(15, 2), 1)


def rank_strata(widths):
    """All multiplicities of the intervals [i, j] that cover vertex s of the chain H_s times."""
    intervals = [(i, j) for i in range(len(widths)) for j in range(i, len(widths))]

    def fill(left, remaining):
        if not left:
            if not any(remaining):
                yield {}
            return
        (i, j), *rest = left
        # Intervals come in order of their start, so vertices before i must be covered by now.
        if any(remaining[:i]):
            return
        for count in range(min(remaining[i : j + 1]) + 1):
            after = [x - count * (i <= s <= j) for s, x in enumerate(remaining)]
            for others in fill(rest, after):
                yield {(i, j): count, **others}

    return fill(intervals, list(widths))


def fibre_codimensions(widths, rank):
    """Of each rank stratum: dim Ext¹ of the quiver representation, plus the dimension of rank-r products."""
    last = len(widths) - 1
    for stratum in rank_strata(widths):
        if stratum[0, last] == rank:
            extensions = sum(
                x * y for (i, j), x in stratum.items() for (k, m), y in stratum.items() if i < k <= j + 1 and j < m
            )
            yield extensions + rank * (widths[0] + widths[-1] - rank)


def test_deep_linear_is_half_the_codimension_of_the_fibre():
    shapes = [*itertools.product(range(1, 4), repeat=3), *itertools.product(range(1, 4), repeat=4)]
    shapes += [(1, 1, 1, 1, 1), (2, 2, 2, 2, 2), (2, 3, 2, 1, 2), (5, 2, 4), (4, 4, 4), (2, 4, 3, 4)]
    for widths in shapes:
        for rank in range(min(widths) + 1):
            codimensions = list(fibre_codimensions(widths, rank))
            llc, multiplicity = truth.deep_linear_llc(widths, rank)
            assert llc == HALF * min(codimensions), (widths, rank)
            # C(ℓ, a) components have this codimension, which is m = a(ℓ − a) + 1 up to ℓ = 3.
            components = codimensions.count(min(codimensions))
            assert multiplicity == components or len(widths) > 4, (widths, rank, components)


@pytest.mark.parametrize(("widths", "rank"), [([2, 2, 2], 0), ([4, 3, 5], 2), ([3, 2, 2, 3], 1)])
def test_deep_linear_exceeds_half_the_rank_of_the_hessian(widths, rank):
    built = truth.deep_linear(jax.random.key(0), widths, rank)
    eigenvalues = np.linalg.eigvalsh(hessian(built, built.params))
    hessian_rank = int(np.sum(eigenvalues > 1e-3))
    # What lies beside the rank-r part is a product of two or more zeros, so it has no second derivative.
    assert hessian_rank == rank * (widths[0] + widths[-1] - rank)
    assert built.llc >= HALF * hessian_rank


def test_generic_points_of_the_fibre_lie_above_the_formula():
    built = truth.deep_linear(jax.random.key(0), [2, 2, 2], 0)
    generic = [jnp.eye(2), jnp.zeros((2, 2))]
    assert mean_loss(built, generic) == 0
    # The fibre is smooth here, so the local value is half the rank: 2, and not 3/2.
    assert int(np.sum(np.linalg.eigvalsh(hessian(built, generic)) > 1e-3)) == 4
    assert built.llc == F(3, 2)


def test_deep_linear_weights_are_aligned_and_of_the_rank_asked():
    built = truth.deep_linear(jax.random.key(0), [4, 3, 5, 3], 2, singular_values=[3.0, 0.5])
    assert [w.shape for w in built.params] == [(4, 3), (3, 5), (5, 3)]
    product = truth.deep_linear_apply(built.params, jnp.eye(4))
    np.testing.assert_allclose(np.linalg.svd(product)[1], [3.0, 0.5, 0.0], atol=1e-5)
    for weight in built.params:
        np.testing.assert_allclose(np.linalg.svd(weight)[1][:3], [3 ** (1 / 3), 0.5 ** (1 / 3), 0], atol=1e-5)


def test_label_noise_has_the_variance_asked():
    built = truth.deep_linear(jax.random.key(0), [3, 3], 1, noise=0.5, num_examples=20_000)
    # ½·3·0.25, with relative standard deviation √(2/(3n))
    assert abs(mean_loss(built, built.params) / 0.375 - 1) < 4 * math.sqrt(2 / 60_000)


# Quadratics


def test_quadratic_counts_curved_directions():
    assert truth.quadratic(jax.random.key(0), [1.0, 0.0, 2.0]).llc == 1


@pytest.mark.parametrize("count", [2, 101])
def test_quadratic_data_have_the_moments_asked(count):
    h = np.array([2.0, 0.5])
    data = truth.quadratic(jax.random.key(0), h, gradient_noise=0.7, curvature_noise=0.5, num_examples=count).data
    gradient, curvature = (np.asarray(data[name], float) for name in ("gradient", "curvature"))
    np.testing.assert_allclose(gradient.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(gradient.var(0), 0.49, rtol=1e-5)
    np.testing.assert_allclose(curvature.mean(0), h, rtol=1e-6)
    np.testing.assert_allclose(curvature.std(0), 0.5 * h, rtol=1e-5)
    assert np.all(curvature > 0)


def test_quadratic_formulas_at_their_limits():
    h, nbeta, gamma = [1.0, 0.1, 0.0], 100.0, 5.0
    ideal = truth.localized_llc(h, nbeta, gamma)
    assert ideal == pytest.approx((100 / 105 + 10 / 15) / 2)
    assert truth.localized_llc(h, nbeta, 0.0) == 1.0
    assert truth.sgld_llc(h, nbeta, gamma, 0.0) == pytest.approx(ideal)
    assert truth.sgld_llc([1.0], nbeta, gamma, 3 / 105) == pytest.approx(4 * 50 / 105)
    assert truth.sgld_llc([1.0], nbeta, gamma, 0.01, 0.3, 2) == pytest.approx(
        50 / 105 * (1 + 0.01 * 1e4 * 0.3 / 8) / (1 - 0.01 * 105 / 4)
    )
    for step_size in (1e-3, 0.01, 3.9 / 105):
        assert truth.leimkuhler_matthews_llc(h, nbeta, gamma, step_size) == pytest.approx(ideal)


def simulate(data, nbeta, gamma, step_size, batch_size, averaged, chains=400, burn_in=200, draws=1200):
    """Run the recursion in NumPy on batches with replacement: λ̂ and its standard error over chains."""
    rng = np.random.default_rng(0)
    curvature, shift = (np.asarray(data[name], float) for name in ("curvature", "gradient"))
    count, dim = curvature.shape
    w, noise, total = np.zeros((chains, dim)), rng.normal(size=(chains, dim)), np.zeros(chains)
    for t in range(burn_in + draws):
        if t >= burn_in:
            total += nbeta * w**2 @ curvature.mean(0) / 2
        batch = rng.integers(count, size=(chains, batch_size))
        drift = nbeta * (curvature[batch].mean(1) * w + shift[batch].mean(1)) + gamma * w
        fresh = rng.normal(size=(chains, dim))
        w = w - step_size / 2 * drift + np.sqrt(step_size) * ((noise + fresh) / 2 if averaged else fresh)
        noise = fresh
    means = total / draws
    return means.mean(), means.std(ddof=1) / np.sqrt(chains)


@pytest.mark.parametrize(("gradient_noise", "curvature_noise"), [(0.0, 0.0), (0.3, 0.0), (0.3, 0.5)])
@pytest.mark.parametrize(("formula", "averaged"), [(truth.sgld_llc, False), (truth.leimkuhler_matthews_llc, True)])
def test_quadratic_formulas_against_simulation(formula, averaged, gradient_noise, curvature_noise):
    h, nbeta, gamma, step_size, batch_size = np.array([1.0, 0.3]), 50.0, 5.0, 0.03, 4
    data = truth.quadratic(
        jax.random.key(1), h, gradient_noise=gradient_noise, curvature_noise=curvature_noise, num_examples=101
    ).data
    exact = formula(h, nbeta, gamma, step_size, gradient_noise**2, batch_size, (curvature_noise * h) ** 2)
    value, error = simulate(data, nbeta, gamma, step_size, batch_size, averaged)
    assert error < 0.006 * exact
    assert abs(value - exact) < 4 * error
