"""The problems on which accuracy is measured: small, singular, badly scaled and large, each with what is known."""

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from itertools import pairwise, product
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from sltjax import truth
from sltjax.posterior import default_nbeta
from sltjax.truth import Truth
from sltjax.types import Batch

Exact: TypeAlias = Callable[[Truth, float, float], float]
"""λ̂ of the posterior itself, from (truth, nβ, γ), without any error of sampling."""


@dataclass(frozen=True)
class Problem:
    """A checkpoint, its posterior, and what its λ̂ can be compared with.

    Attributes:
        name: unique; the key of everything random in it.
        family: what it shares with its neighbours in a table.
        make: builds loss, anchor and data, the same ones at every call.
        nbeta: nβ; None for n / log n.
        gamma: γ.
        exact: λ̂ of the posterior by closed form or quadrature; None where there is neither.
        samples: whether NUTS on the full data is affordable.
        llc_applies: whether the anchor is a minimum of the loss on these data and `Truth.llc` is known to be λ
            there. If not, `Truth.llc` is that of the true function's most degenerate parameters, and only the
            reference says how good an estimate is.
        linear: whether the loss is ½|y − f|², with f linear in x, so that `compressed` data say the same.
    """

    name: str
    family: str
    make: Callable[[], Truth]
    nbeta: float | None = None
    gamma: float = 1.0
    exact: Exact | None = None
    samples: bool = True
    llc_applies: bool = True
    linear: bool = False

    @property
    def reference(self) -> Literal["exact", "nuts"] | None:
        """Where the value of λ̂ at this nβ and γ comes from; None if the problem is too large for NUTS."""
        if self.exact is not None:
            return "exact"
        return "nuts" if self.samples else None

    def temperature(self, built: Truth) -> float:
        """nβ, whatever the number of rows of `compressed`."""
        return default_nbeta(built.num_examples) if self.nbeta is None else self.nbeta

    def compressed(self, built: Truth) -> Batch:
        """Few rows with the same mean loss at every parameter; the data themselves where there are none."""
        return compressed(built.data) if self.linear else built.data


def compressed(data: Batch) -> Batch:
    """Data {"x", "y"} of a linear model with squared errors, in at most as many rows as [x y] has columns.

    With [x y] = QR, Σ_j |y_j − x_j W|² is the same for the rows of R. Scaled by √(rows/n) they have the same
    mean, too. Rows that are rounding alone, as where y = x W exactly, are left out.
    """
    x, y = (np.asarray(data[name], np.float64) for name in ("x", "y"))
    triangle = np.linalg.qr(np.column_stack([x, y]), mode="r")
    size = np.abs(triangle).max(axis=1)
    rows = triangle[size > 1e-6 * size.max()]
    rows = jnp.asarray(rows * math.sqrt(len(rows) / len(x)), jnp.float32)
    inputs = x.shape[1]
    return {"x": rows[:, :inputs], "y": rows[:, inputs:].reshape(-1, *y.shape[1:])}


def problems() -> list[Problem]:
    """Every problem, one family after the other; nothing is built before `make` is called."""
    found = [
        *quadratics(),
        *crossings(),
        *separate_powers(),
        *radial(),
        *linear(),
        *logistic(),
        *reduced_rank(),
        *trained_networks(),
        *tanh_networks(),
        *published_networks(),
    ]
    assert len({problem.name for problem in found}) == len(found), "names must differ"
    return found


def key_of(name: str) -> jax.Array:
    return jax.random.key(zlib.crc32(name.encode()))


# Quadratics and regression: the posterior is Gaussian


def quadratics() -> list[Problem]:
    def build(name: str, curvatures: Sequence[float], **noise: float) -> Truth:
        return truth.quadratic(key_of(name), np.asarray(curvatures), **noise)

    def problem(name: str, curvatures: Sequence[float], nbeta: float | None = None, gamma: float = 1.0, **noise: float):
        name = f"quadratic {name}"
        make = partial(build, name, curvatures, **noise)
        return Problem(name, "quadratic", make, nbeta, gamma, exact=gaussian)

    def precisions(dim: int) -> list[float]:
        """nβh evenly spaced from 1 to 1e4 in the logarithm, at nβ = 100."""
        return list(np.geomspace(1, 1e4, dim) / 100)

    return [
        problem("d=1", [1.0]),
        problem("d=2", [1.0, 3.0]),
        problem("d=10", [1.0] * 10),
        problem("d=100", [1.0] * 100),
        problem("d=10, 3 flat", [1.0] * 7 + [0.0] * 3),
        problem("d=50, 25 flat, γ=10", [2.0] * 25 + [0.0] * 25, gamma=10.0),
        problem("d=10, precisions 1 to 1e4", precisions(10), nbeta=100.0),
        problem("d=50, precisions 1 to 1e4, γ=10", precisions(50), nbeta=100.0, gamma=10.0),
        problem("d=10, gradient noise", [1.0] * 10, gradient_noise=1.0),
        problem("d=50, gradient noise, precisions 1 to 1e4", precisions(50), nbeta=100.0, gradient_noise=1.0),
        problem("d=10, curvature noise", [1.0] * 10, curvature_noise=0.5),
        problem("d=30, both noises, 10 flat", [1.0] * 20 + [0.0] * 10, gradient_noise=1.0, curvature_noise=0.5),
    ]


def gaussian(built: Truth, nbeta: float, gamma: float) -> float:
    curvatures = np.asarray(built.data["curvature"], np.float64).mean(0)
    return truth.localized_llc(curvatures, nbeta, gamma)


def linear() -> list[Problem]:
    def build(name: str, dim: int, num_examples: int, **options: float) -> Truth:
        return truth.linear_regression(key_of(name), dim, num_examples=num_examples, **options)

    def problem(dim: int, nbeta: float | None = None, num_examples: int = 1000, **options: float) -> Problem:
        extras = {**({} if nbeta is None else {"nβ": nbeta}), **options}
        name = f"linear regression d={dim}" + "".join(f", {option} {value:g}" for option, value in extras.items())
        make = partial(build, name, dim, num_examples, **options)
        return Problem(name, "linear regression", make, nbeta, exact=least_squares, linear=True)

    return [
        problem(2),
        problem(10),
        problem(2, noise=1.0),
        problem(5, noise=1.0),
        problem(10, noise=1.0, correlation=0.9),
        problem(30, noise=1.0),
        problem(30, noise=3.0, correlation=0.9, num_examples=2000),
        problem(20, noise=1.0, flat=5),
        problem(100, noise=1.0, num_examples=2000),
        problem(10, noise=1.0, nbeta=1000.0),
    ]


def least_squares(built: Truth, nbeta: float, gamma: float) -> float:
    x = np.asarray(built.data["x"], np.float64)
    moments = np.linalg.eigvalsh(x.T @ x / len(x))
    return truth.localized_llc(np.maximum(moments, 0), nbeta, gamma)


def logistic() -> list[Problem]:
    def build(name: str, dim: int, num_examples: int, **options: float) -> Truth:
        return truth.logistic_regression(key_of(name), dim, num_examples=num_examples, **options)

    def problem(dim: int, num_examples: int = 1000, exact: Exact | None = None, **options: float) -> Problem:
        name = f"logistic regression d={dim}" + "".join(f", {option} {value:g}" for option, value in options.items())
        return Problem(name, "logistic regression", partial(build, name, dim, num_examples, **options), exact=exact)

    return [
        problem(1, exact=one_logit),
        problem(2),
        problem(5),
        problem(5, scale=3.0),
        problem(10, correlation=0.9),
        problem(10, scale=0.0),
        problem(20, flat=5),
        problem(30, num_examples=2000),
    ]


def one_logit(built: Truth, nbeta: float, gamma: float) -> float:
    x, y = (np.asarray(built.data[name], np.float64) for name in ("x", "y"))

    def potential(w: NDArray[np.float64]) -> NDArray[np.float64]:
        logits = w * x[:, 0]
        return np.mean(np.logaddexp(0, logits) - y * logits, axis=-1)

    center = float(built.params[0])
    return truth.finite_nbeta_llc(potential, nbeta, [(center - 8, center + 8)], gamma, [center])


# Polynomials: quadrature over the radii, on a grid that is even in their logarithms. Integrands decay
# exponentially at both ends there, where the trapezoidal rule is spectrally accurate.


def crossings() -> list[Problem]:
    def build(name: str, exponents: Sequence[int], prior: Sequence[int] | None) -> Truth:
        return truth.normal_crossing(key_of(name), exponents, prior_exponents=prior)

    def problem(
        exponents: Sequence[int], prior: Sequence[int] | None = None, nbeta: float | None = None, gamma: float = 1.0
    ) -> Problem:
        extras = ["" if prior is None else f" h={list(prior)}", "" if nbeta is None else f" nβ={nbeta:g}"]
        name = f"crossing k={list(exponents)}" + "".join(extras) + ("" if gamma == 1 else f" γ={gamma:g}")
        exact = partial(crossing, tuple(exponents), tuple(prior or [0] * len(exponents)))
        return Problem(name, "normal crossing", partial(build, name, exponents, prior), nbeta, gamma, exact)

    return [
        problem([1]),
        problem([2]),
        problem([3]),
        problem([1, 0]),
        problem([1, 1]),
        problem([1, 2]),
        problem([2, 2]),
        problem([1, 3], nbeta=1e4),
        problem([1, 1], nbeta=1e4, gamma=10.0),
        problem([1, 1], [1, 1]),
        problem([1, 2], [0, 1]),
        problem([1, 1, 1]),
        problem([1, 1, 2]),
        problem([1, 1, 1], [0, 1, 2]),
    ]


def separate_powers() -> list[Problem]:
    def build(name: str, powers: Sequence[int]) -> Truth:
        return truth.quasi_homogeneous(key_of(name), powers)

    def problem(name: str, powers: Sequence[int], nbeta: float | None = None) -> Problem:
        name = f"quasi-homogeneous p={name}"
        exact = partial(sum_of_powers, tuple(powers))
        return Problem(name, "quasi-homogeneous", partial(build, name, powers), nbeta, exact=exact)

    return [
        problem("[4]", [4]),
        problem("[2, 4]", [2, 4]),
        problem("[4, 6], nβ=1e4", [4, 6], 1e4),
        problem("[2, 4, 6, 8]", [2, 4, 6, 8]),
        problem("[4] * 10", [4] * 10),
        problem("[2] * 10 + [4] * 10", [2] * 10 + [4] * 10),
        problem("[2] * 5 + [6] * 5, nβ=1e4", [2] * 5 + [6] * 5, 1e4),
    ]


def radial() -> list[Problem]:
    def build(name: str, dim: int, power: int) -> Truth:
        return truth.radial(key_of(name), dim, power)

    def problem(dim: int, power: int, gamma: float = 1.0) -> Problem:
        name = f"radial d={dim} k={power}" + ("" if gamma == 1 else f" γ={gamma:g}")
        exact = partial(crossing, (power,), (dim - 1,))
        return Problem(name, "radial", partial(build, name, dim, power), gamma=gamma, exact=exact)

    return [problem(2, 2), problem(3, 2), problem(5, 3), problem(10, 2), problem(10, 2, 10.0), problem(50, 2)]


def crossing(powers: Sequence[int], prior: Sequence[int], built: Truth | None, nbeta: float, gamma: float) -> float:
    """Of K = Π r_i^{2k_i} under the weight Π r_i^{h_i} exp(−γ r_i²/2), one factor an axis."""
    axes = [log_radii(h, gamma, len(powers)) for k, h in zip(powers, prior, strict=True) if k]
    exponents = [2 * k for k in powers if k]
    log_energy = math.log(nbeta) + outer_sum([k * s for k, (s, _) in zip(exponents, axes, strict=True)])
    return tempered_mean(np.exp(log_energy), outer_sum([weight for _, weight in axes]))


def sum_of_powers(powers: Sequence[int], built: Truth | None, nbeta: float, gamma: float) -> float:
    """Of K = ½ Σ w_i^{p_i}: each variable apart."""
    s, weight = log_radii(0, gamma, 1)
    return sum(tempered_mean(nbeta * np.exp(p * s) / 2, weight) for p in powers)


def log_radii(h: int, gamma: float, dims: int) -> tuple[NDArray, NDArray]:
    """Even nodes s = log r, and the logarithm of r^h exp(−γr²/2) dr/ds there; fewer nodes for more dimensions."""
    top = math.log((math.sqrt(h + 1) + 7) / math.sqrt(gamma))
    s = np.arange(top - 21 / (h + 1) - 5, top, 0.1 if dims > 2 else 0.02)
    return s, (h + 1) * s - gamma / 2 * np.exp(2 * s)


def outer_sum(arrays: Sequence[NDArray]) -> NDArray:
    total = arrays[0]
    for array in arrays[1:]:
        total = np.add.outer(total, array)
    return total


def tempered_mean(energy: NDArray, log_weight: NDArray) -> float:
    log_density = log_weight - energy
    density = np.exp(log_density - log_density.max())
    return float(np.sum(density * energy) / np.sum(density))


# Tanh networks


def tanh_networks() -> list[Problem]:
    def build(name: str, hidden: int) -> Truth:
        return truth.tanh_network(key_of(name), hidden)

    def problem(hidden: int) -> Problem:
        name = f"tanh H={hidden}"
        return Problem(name, "tanh network", partial(build, name, hidden), exact=tanh_exact if hidden <= 3 else None)

    return [problem(hidden) for hidden in range(1, 10)]


def tanh_exact(built: Truth, nbeta: float, gamma: float) -> float:
    """Given b, the outputs' weights a are Gaussian with precision A = nβG + γ, G_ij = mean tanh(b_i x) tanh(b_j x).

    What remains is the integral over b > 0 (G changes only by signs of a otherwise) of the mean of nβK given
    b, ½ tr(nβG A⁻¹), under the weight det A^{−½} exp(−γ|b|²/2).
    """
    hidden = built.params["a"].size
    s, log_weight = log_radii(0, gamma, hidden)
    hidden_units = np.tanh(np.exp(s)[:, None] * np.asarray(built.data["x"], np.float64))
    moments = hidden_units @ hidden_units.T / hidden_units.shape[1]
    others = np.array([*product(range(len(s)), repeat=hidden - 1)], int)
    parts = []
    for first in range(len(s)):  # one slice of the grid at a time, to keep it in memory
        index = np.column_stack([np.full(len(others), first), others])
        precision = nbeta * moments[index[:, :, None], index[:, None, :]] + gamma * np.eye(hidden)
        given = (hidden - gamma * np.trace(np.linalg.inv(precision), axis1=1, axis2=2)) / 2
        log_density = log_weight[index].sum(1) - np.linalg.slogdet(precision)[1] / 2
        parts.append((log_density, given))
    log_density, given = (np.concatenate(part) for part in zip(*parts, strict=True))
    density = np.exp(log_density - log_density.max())
    return float(np.sum(density * given) / np.sum(density))


# Linear networks


def reduced_rank() -> list[Problem]:
    def build(name: str, widths: Sequence[int], rank: int, noise: float) -> Truth:
        return truth.deep_linear(key_of(name), widths, rank, noise=noise)

    def problem(widths: Sequence[int], rank: int, noise: float = 0.0, gamma: float = 1.0) -> Problem:
        name = f"reduced rank {network(widths, rank)}" + (f", noise {noise:g}" if noise else "")
        name += "" if gamma == 1 else f", γ={gamma:g}"
        family = "reduced rank, noisy" if noise else "reduced rank"
        make = partial(build, name, widths, rank, noise)
        return Problem(name, family, make, gamma=gamma, llc_applies=not noise, linear=True)

    shapes = [([2, 2, 2], 0), ([2, 2, 2], 1), ([3, 8, 4], 0), ([5, 3, 5], 2), ([7, 4, 9], 2), ([10, 5, 10], 0)]
    return [
        *(problem(*shape) for shape in shapes),
        problem([8, 6, 8], 2),
        problem([8, 6, 8], 2, gamma=10.0),
        *(problem(*shape, noise=1.0) for shape in shapes[1:]),
        problem([8, 6, 8], 2, noise=1.0, gamma=10.0),
    ]


def published_networks() -> list[Problem]:
    """Widths, depths and ranks drawn as in the published scale benchmark (Lau et al., arXiv 2308.12108).

    Each layer's rank is reduced with probability ½ to a uniform one; that of the product is the least. Of
    the draws, those of the size wanted are kept.
    """
    small = [random_network(100 + i, (5, 50), (2, 5), (100, 1000)) for i in range(24)]
    small.sort(key=lambda shape: sum(a * b for a, b in pairwise(shape[0])))
    return [
        *(scaled("deep linear 100–1K", *shape, num_examples=1000) for shape in small),
        *(
            scaled("deep linear 10K", *random_network(seed, (5, 100), (2, 10), (8_000, 13_000)), 10_000, False)
            for seed in range(200, 203)
        ),
        *(
            scaled("deep linear 100K", *random_network(seed, (50, 500), (2, 10), (80_000, 130_000)), 20_000, False)
            for seed in range(300, 301)
        ),
        scaled("deep linear 1M", *random_network(400, (100, 1000), (2, 20), (800_000, 1_300_000)), 20_000, False),
    ]


def scaled(family: str, widths: tuple[int, ...], rank: int, num_examples: int, samples: bool = True) -> Problem:
    name = f"deep linear {network(widths, rank)}"

    def build() -> Truth:
        return truth.deep_linear(key_of(name), widths, rank, num_examples=num_examples, inputs=wide_uniform)

    return Problem(name, family, build, samples=samples, linear=True)


def wide_uniform(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
    return jax.random.uniform(key, shape, jnp.float32, -10, 10)


def random_network(
    seed: int, width: tuple[int, int], layers: tuple[int, int], size: tuple[int, int]
) -> tuple[tuple[int, ...], int]:
    """Widths and the rank of the product, both ends of every range included."""
    rng = np.random.default_rng(seed)
    while True:
        widths = tuple(rng.integers(*width, rng.integers(*layers, endpoint=True) + 1, endpoint=True).tolist())
        if size[0] <= sum(a * b for a, b in pairwise(widths)) <= size[1]:
            full = [min(pair) for pair in pairwise(widths)]
            ranks = [int(rng.integers(0, rank, endpoint=True)) if rng.random() < 0.5 else rank for rank in full]
            return widths, min(ranks)


def network(widths: Sequence[int], rank: int) -> str:
    return "-".join(map(str, widths)) + f" r{rank}"


def trained_networks() -> list[Problem]:
    """Where gradient descent arrives. λ is known there only where the rank is that of the narrowest layer.

    There the product map has the same rank all over the fibre, so λ is the same at all its points. Elsewhere
    small singular values are left in every layer, and at finite nβ the point is neither generic nor aligned.
    """

    def problem(widths: Sequence[int], rank: int) -> Problem:
        name = f"trained {network(widths, rank)}"
        make = partial(trained, name, widths, rank)
        return Problem(name, "trained", make, llc_applies=rank == min(widths), linear=True)

    known = [([4, 3, 4], 3), ([10, 4, 10], 4), ([6, 8, 6], 6), ([5, 5, 5, 5], 5), ([8, 3, 6, 8], 3)]
    unknown = [([8, 6, 8], 2), ([10, 5, 10], 2)]
    return [problem(*shape) for shape in known + unknown]


def trained(name: str, widths: Sequence[int], rank: int, num_examples: int = 1000) -> Truth:
    """A deep linear network trained from small weights by gradient descent in float64, until the loss is 1e-13."""
    key = key_of(name)
    aligned = truth.deep_linear(
        key, widths, rank, num_examples=num_examples, singular_values=np.linspace(2, 1, rank).tolist()
    )
    x, y = (np.asarray(aligned.data[name], np.float64) for name in ("x", "y"))
    moments, cross = x.T @ x / len(x), x.T @ y / len(x)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    weights = [0.1 * rng.normal(size=pair) for pair in pairwise(widths)]
    for _ in range(200_000):
        residual = moments @ chain(weights, widths[0]) - cross
        if np.sum(residual**2) < 1e-13:
            break
        before = [chain(weights[:s], widths[0]) for s in range(len(weights))]
        after = [chain(weights[s + 1 :], widths[s + 1]) for s in range(len(weights))]
        weights = [w - 0.03 * a.T @ residual @ b.T for w, a, b in zip(weights, before, after, strict=True)]
    else:
        raise ArithmeticError(f"{name}: not trained after 200,000 steps, residual {np.sum(residual**2):.2g}")
    params = [jnp.asarray(w, jnp.float32) for w in weights]
    return Truth(aligned.loss, params, aligned.data, aligned.llc, aligned.multiplicity)


def chain(weights: Sequence[NDArray], width: int) -> NDArray:
    """W_1 ⋯ W_s, the identity of the width given where there is none."""
    return reduce(np.matmul, weights, np.eye(width))
