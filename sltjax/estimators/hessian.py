"""The spectrum of the Hessian of the mean loss at a checkpoint, from products with vectors alone.

    tr f(H) ≈ (1/P) Σ_p Σ_k ω_pk f(θ_pk)

Each of P random vectors v, |v|² = d, is the start of a Lanczos run; the eigenvalues θ of its tridiagonal matrix and d
times the squared first components ω of its eigenvectors are the Gauss rule for vᵀf(H)v (Golub & Meurant 1994;
Ubaru, Chen & Saad 2017; Ghorbani, Krishnan & Xiao 2019, arXiv 1901.10159). f(h) = h is Hutchinson's trace. Rules of
the last few lengths of a run are kept: where eigenvalues lie closer than the run can tell apart, as they do about 0,
these swing about the truth, and their mean and spread are the value and what is not known of it. Where all products
together would be as many as H has columns, H itself is computed, and everything is exact.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from sltjax.diagnostics import with_warnings
from sltjax.losses import mean_loss
from sltjax.moments import Mean
from sltjax.posterior import PIECE, LocalPosterior
from sltjax.sampling import traceable
from sltjax.threefry import as_threefry
from sltjax.types import Batch, Estimate, Loss, Params, RngKey, Scalar
from sltjax.validation import as_float32, count_examples, validate_loss, validate_select

FLAT = 1e-4  # of the largest |eigenvalue|, below which rounding in float32 and curvature look alike
EXHAUSTED = 1e-5  # of the largest entry, the coupling at which a Lanczos run has seen all that its start can see
RULES = 8  # lengths of a run that are kept, or half of them where they are fewer than 16
TOP_ITERATIONS = 100
BLOCK = 32  # products at once where H itself is computed
SIGMAS = 4.0

Product = Callable[[Float[Array, " d"]], Float[Array, " d"]]
Arrays = tuple[Array, Array, Array, Array]  # the attributes of `HessianSpectrum`


@struct.dataclass
class HessianSpectrum:
    """What is known of the eigenvalues h of the Hessian of L_n at a checkpoint, a matrix d × d.

    Attributes:
        nodes: θ, in nats an example and squared unit of the parameters, shape [probe, rule, node].
        weights: how many eigenvalues each stands for, of which those of a rule add up to d, [probe, rule, node].
        top: the largest eigenvalues in descending order, with multiplicity, [top].
        top_error: an eigenvalue lies within this distance of each, [top].
    """

    nodes: Float[np.ndarray, "probe rule node"]
    weights: Float[np.ndarray, "probe rule node"]
    top: Float[np.ndarray, " top"]
    top_error: Float[np.ndarray, " top"]

    @property
    def is_exact(self) -> bool:
        """Whether nodes are the eigenvalues themselves, in the place of a single probe."""
        return len(self.nodes) == 1

    @property
    def trace(self) -> Mean:
        """Σ h, by Hutchinson's estimate."""
        return self._total(self.nodes)

    def rank(self, threshold: float | None = None) -> Mean:
        """The number of eigenvalues beyond a threshold in absolute value; at a minimum, half of it is at most λ.

        It is known best where there are few eigenvalues about the threshold; `effective_count` needs none.

        Args:
            threshold: None for `FLAT` times the largest |eigenvalue|, the flat directions of float32.

        Raises:
            ValueError: the threshold is negative.
        """
        size = np.abs(self.nodes)
        limit = FLAT * max(size.max(), np.abs(self.top).max(initial=0.0)) if threshold is None else threshold
        if not limit >= 0:
            raise ValueError(f"threshold: got {threshold}, expected a curvature of at least 0")
        return self._total(size > limit)

    def effective_count(self, nbeta: float, gamma: float) -> Mean:
        """Σ nβh/(nβh + γ) over h > 0: the directions that the loss holds and not the localisation.

        Half of it is λ̂ of the quadratic part of the loss (Lau et al., arXiv 2308.12108); see
        `sltjax.estimators.effective_count` for known curvatures.

        Args:
            nbeta: nβ > 0.
            gamma: γ > 0; rounding alone makes all directions count at γ = 0.

        Raises:
            ValueError: an argument out of its range.
        """
        for name, value in (("nbeta", nbeta), ("gamma", gamma)):
            if not (np.isfinite(value) and value > 0):
                raise ValueError(f"{name}: got {value}, expected a finite number above 0")
        held = nbeta * np.maximum(self.nodes, 0.0)
        return self._total(held / (held + gamma))

    def density(self, x: Float[np.ndarray, " point"], width: float) -> Mean:
        """The number of eigenvalues a unit of h at points x, each spread out as a normal density.

        Args:
            x: shape [point].
            width: its standard deviation, above 0.

        Returns:
            value and std_error are [point].

        Raises:
            ValueError: the width is not positive.
        """
        if not width > 0:
            raise ValueError(f"width: got {width}, expected a curvature above 0, such as 1 % of the largest")
        away = (np.asarray(x)[:, None, None, None] - self.nodes) / width
        return self._total(np.exp(-(away**2) / 2) / (width * np.sqrt(2 * np.pi)))

    def _total(self, values: Float[np.ndarray, "*point probe rule node"] | np.ndarray) -> Mean:
        """Σ over eigenvalues of what is given at the nodes: its mean, with the error of probes and that of rules."""
        sums = np.sum(self.weights * values, axis=-1)
        if self.is_exact:
            return Mean(sums[..., 0, 0], np.zeros(sums.shape[:-2]), np.inf)
        probes = sums.shape[-2]
        of_probes = sums.mean(axis=-1).std(axis=-1, ddof=1) / np.sqrt(probes)
        of_rules = sums.mean(axis=-2).std(axis=-1, ddof=1)
        return Mean(sums.mean(axis=(-2, -1)), np.hypot(of_probes, of_rules), float(probes))


def hessian_spectrum(
    key: RngKey,
    loss: Loss,
    params: Params,
    data: Batch,
    *,
    select: Callable[[Params], Params] | None = None,
    num_probes: int = 16,
    num_products: int = 64,
    num_top: int = 10,
    piece: int = PIECE,
) -> HessianSpectrum:
    """The spectrum of the Hessian of L_n at one checkpoint, over the full data.

    Args:
        key: consumed.
        loss: (params, batch) -> per-example losses [batch]; a `BehavioralLoss` without an anchor is measured from
            `params`.
        params: the checkpoint w*, any pytree of floating-point arrays.
        data: pytree of arrays [n, ...].
        select: params -> a part of them, of which to take the Hessian; see `restrict` and `part`.
        num_probes: P ≥ 2 random vectors; errors fall as 1/√P.
        num_products: Lanczos steps of each, at least 4, which take as many copies of the parameters in memory.
        num_top: largest eigenvalues to find, with their multiplicity, by LOBPCG (Knyazev 2001).
        piece: examples in memory at once.

    Returns:
        The spectrum; exact where d ≤ num_probes · num_products.

    Raises:
        ValueError, TypeError: an argument that cannot work; the message says what would.
    """
    sizes = {"num_probes": num_probes, "num_products": num_products, "num_top": num_top, "piece": piece}
    return hessian_spectra(key, loss, [params], data, select=select, **sizes)[0]


def hessian_spectra(
    key: RngKey,
    loss: Loss,
    checkpoints: Sequence[Params],
    data: Batch,
    *,
    select: Callable[[Params], Params] | None = None,
    num_probes: int = 16,
    num_products: int = 64,
    num_top: int = 10,
    piece: int = PIECE,
) -> tuple[HessianSpectrum, ...]:
    """The spectra at several checkpoints in one program, from the same random vectors: see `hessian_spectrum`.

    Args:
        key: consumed.
        loss: per-example losses.
        checkpoints: of equal shapes.
        data: pytree of arrays [n, ...].
        select: as there, and so are the sizes below.
        num_probes: P.
        num_products: of each.
        num_top: largest eigenvalues.
        piece: examples in memory at once.

    Raises:
        ValueError, TypeError: an argument that cannot work; the message says what would.
    """
    count_examples(data)
    for name, size, least in (
        ("num_probes", num_probes, 2),
        ("num_products", num_products, 4),
        ("num_top", num_top, 1),
        ("piece", piece, 1),
    ):
        if size < least:
            raise ValueError(f"{name}: got {size}, expected at least {least}")
    if not checkpoints:
        raise ValueError("checkpoints: got none, expected at least one")
    anchors = [as_float32(params) for params in checkpoints]
    posterior = LocalPosterior(loss, anchors[0], 1.0, 1.0, select=select)
    validate_select(posterior)
    validate_loss(posterior, data)
    stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *anchors)
    program = partial(_spectra, num_probes=num_probes, num_products=num_products, num_top=num_top, piece=piece)
    found = jax.device_get(program(key, traceable(posterior.at(stack)), data))
    arrays = ([np.asarray(x[k], np.float64) for x in found] for k in range(len(anchors)))
    return tuple(HessianSpectrum(*each) for each in arrays)


@dataclasses.dataclass(frozen=True, eq=False)
class HessianMetric:
    """The spectrum at every checkpoint of a sweep, as one of its metrics; arguments as for `hessian_spectrum`.

    Attributes:
        key: of the random vectors, the same at every checkpoint.
        loss: per-example losses.
        select: params -> a part of them.
        num_probes: P.
        num_products: of each.
        num_top: largest eigenvalues.
        piece: examples in memory at once.
    """

    key: RngKey
    loss: Loss
    select: Callable[[Params], Params] | None = None
    num_probes: int = 16
    num_products: int = 64
    num_top: int = 10
    piece: int = PIECE

    @property
    def copies(self) -> int:
        """How many copies of the parameters it takes in memory at a checkpoint."""
        return self.num_products + 6 * self.num_top

    def __call__(self, params: Params, data: Batch) -> dict[str, Array]:
        """The attributes of `HessianSpectrum` by their names."""
        posterior = LocalPosterior(self.loss, params, 1.0, 1.0, select=self.select)
        found = _spectrum(self.key, posterior, data, self.num_probes, self.num_products, self.num_top, self.piece)
        return dict(zip((field.name for field in dataclasses.fields(HessianSpectrum)), found, strict=True))


def with_rank_check(llc: Estimate, spectrum: HessianSpectrum, nbeta: float, gamma: float) -> Estimate:
    """λ̂, warned of where it is below half the effective count of the Hessian, as λ cannot be (Watanabe 2009).

    Args:
        llc: λ̂ at that nβ and γ.
        spectrum: at the same checkpoint, of the same loss.
        nbeta: nβ.
        gamma: γ > 0.

    Raises:
        ValueError: nβ or γ is out of range.
    """
    count = spectrum.effective_count(nbeta, gamma)
    short = count.value / 2 - llc.value
    if not short > SIGMAS * np.hypot(llc.std_error, count.std_error / 2):
        return llc
    said = (
        f"below half the effective rank of the Hessian, {count.value / 2:.4g} ± {count.std_error / 2:.2g}: the loss is "
        "not yet quadratic at this nβ, the checkpoint no minimum, or the chains short; raise nbeta or num_draws"
    )
    return with_warnings(llc, said)


def hessian_product(function: Callable[[Params], Scalar], params: Params) -> Callable[[Params], Params]:
    """The map from a direction, shaped like the parameters, to the Hessian of the function there times it."""
    gradient = jax.grad(function)
    return lambda direction: jax.jvp(gradient, (params,), (direction,))[1]


@partial(jax.jit, static_argnames=("num_probes", "num_products", "num_top", "piece"))
def _spectra(
    key: RngKey,
    posteriors: LocalPosterior,
    data: Batch,
    num_probes: int,
    num_products: int,
    num_top: int,
    piece: int,
) -> Arrays:
    sizes = num_probes, num_products, num_top, piece
    return jax.vmap(lambda anchor: _spectrum(key, posteriors.at(anchor), data, *sizes))(posteriors.anchor)


def _spectrum(
    key: RngKey, posterior: LocalPosterior, data: Batch, num_probes: int, num_products: int, num_top: int, piece: int
) -> Arrays:
    start, unravel = ravel_pytree(posterior.start)
    product = hessian_product(lambda w: mean_loss(posterior.losses, unravel(w), data, piece), start)
    if start.size <= num_probes * num_products:
        return _exact(product, start.size, num_top)
    return _stochastic(as_threefry(key), product, start, num_probes, num_products, num_top)


def _exact(product: Product, size: int, num_top: int) -> Arrays:
    hessian = jax.lax.map(product, jnp.eye(size), batch_size=BLOCK)
    values = jnp.linalg.eigvalsh((hessian + hessian.T) / 2)
    nodes, top = values[None, None], values[::-1][:num_top]
    return nodes, jnp.ones_like(nodes), top, jnp.zeros_like(top)


def _stochastic(
    key: Array, product: Product, start: Float[Array, " d"], num_probes: int, num_products: int, num_top: int
) -> Arrays:
    from matfree.stochtrace import sampler_sphere

    probe_key, top_key = jax.random.split(key)
    probes = sampler_sphere(start, num=num_probes)(probe_key)
    nodes, weights = jax.lax.map(lambda probe: _lanczos(product, probe, num_products), probes)
    top, top_error = _largest(top_key, product, start, num_top, jnp.max(jnp.abs(nodes)))
    return nodes, weights, top, top_error


def _lanczos(product: Product, probe: Float[Array, " d"], num_products: int) -> tuple[Array, Array]:
    """The nodes of one probe and their weights, [rule, node].

    By the Hessenberg matrix: it is tridiagonal but for rounding, and its lower diagonal alone shows where the run is
    exhausted, as it is early where H is of low rank. What follows there is noise, and is cut off.
    """
    from matfree.decomp import hessenberg

    _, matrix, _, _ = hessenberg(num_products, reortho="full", custom_vjp=False)(product, probe)
    diagonal, below = jnp.diagonal(matrix), jnp.append(jnp.diagonal(matrix, -1), 0.0)
    met = jax.lax.cummax(jnp.maximum(jnp.abs(diagonal), below))
    goes_on = jnp.cumprod(below > EXHAUSTED * met) > 0
    reached = jnp.append(True, goes_on[:-1])
    steps = jnp.arange(num_products)

    def rule(length: Array) -> tuple[Array, Array]:
        kept = reached & (steps < length)
        coupling = jnp.where(goes_on & (steps < length - 1), below, 0.0)[:-1]
        across = jnp.diag(coupling, 1)
        nodes, vectors = jnp.linalg.eigh(jnp.diag(jnp.where(kept, diagonal, 0.0)) + across + across.T)
        return nodes, probe.size * vectors[0] ** 2

    return jax.vmap(rule)(num_products - jnp.arange(min(RULES, num_products // 2)))


def _largest(
    key: Array, product: Product, start: Float[Array, " d"], count: int, shift: Array
) -> tuple[Float[Array, " top"], Float[Array, " top"]]:
    """The largest eigenvalues and the lengths of their residuals; shifted, since LOBPCG fails on a zero matrix."""
    from jax.experimental.sparse.linalg import lobpcg_standard

    products = jax.vmap(product, in_axes=1, out_axes=1)
    shift = jnp.where(shift > 0, shift, 1.0)
    block = jax.random.normal(key, (start.size, min(count, (start.size - 1) // 5)))
    _, vectors, _ = lobpcg_standard(lambda v: products(v) + shift * v, block, m=TOP_ITERATIONS)
    images = products(vectors)
    values = jnp.sum(vectors * images, axis=0)
    order = jnp.argsort(-values)
    return values[order], jnp.linalg.norm(images - vectors * values, axis=0)[order]
