"""The loss kernel: examples as points, near where a network's losses on them move together (arXiv 2509.26537).

K(i, j) = Cov_p(ℓ_i(w), ℓ_j(w)),    or the correlation: positive semidefinite, a Gram matrix of the draws
"""

import dataclasses
from typing import Any

import numpy as np
from flax import struct
from jaxtyping import Float

from sltjax.estimators.covariances import Covariance, Measure, Recorded, correlation


@struct.dataclass
class Embedding:
    """Examples as points.

    Attributes:
        coordinates: shape [example, component].
        explained: the share of the kernel's trace (with PCA, of its variance over examples) in each component.
    """

    coordinates: Float[np.ndarray, "example component"]
    explained: Float[np.ndarray, " component"]


def loss_kernel(losses: Recorded, measure: Measure = correlation) -> Covariance:
    """The kernel matrix of examples (arXiv 2509.26537), positive semidefinite to rounding.

        K(i, j) = Cov_p(ℓ_i, ℓ_j)/√(Var_p ℓ_i · Var_p ℓ_j),    or Cov_p(ℓ_i, ℓ_j)

    Args:
        losses: [chain, draw, example], as `observables.losses` records it.
        measure: `correlation`, by which examples of large loss weigh no more than others, or `covariance`.

    Returns:
        [example, example], symmetric, with Monte-Carlo standard errors.
    """
    found = measure(losses, None)
    return dataclasses.replace(found, value=(found.value + found.value.T) / 2)


def spectral_embedding(kernel: Covariance, num_components: int = 2) -> Embedding:
    """Eigenvectors of the kernel, each weighted by the root of its eigenvalue: K ≈ X·Xᵀ, the best of that rank.

    Distances between points are those of the losses over the draws, |X_i − X_j|² ≈ K_ii + K_jj − 2K_ij. The first
    component often is what all examples share; `kernel_pca` takes their mean off.

    Raises:
        ValueError: the number of components is not between 1 and that of examples, or the kernel not finite.
    """
    from scipy.linalg import eigh

    size = _check(kernel, num_components)
    values, vectors = eigh(kernel.value, subset_by_index=(size - num_components, size - 1))
    return _embedding(np.maximum(values[::-1], 0.0), vectors[:, ::-1], np.trace(kernel.value))


def kernel_pca(kernel: Covariance, num_components: int = 2) -> Embedding:
    """Principal components of the examples, as points in the space of draws, by scikit-learn's `KernelPCA`.

    Raises:
        ValueError: the number of components is not between 1 and that of examples, or the kernel not finite.
    """
    from sklearn.decomposition import KernelPCA

    _check(kernel, num_components)
    fitted = KernelPCA(num_components, kernel="precomputed", eigen_solver="dense").fit(kernel.value)
    centred = kernel.value - kernel.value.mean(axis=0)
    return _embedding(np.maximum(fitted.eigenvalues_, 0.0), fitted.eigenvectors_, np.trace(centred))


def umap_embedding(kernel: Covariance, num_components: int = 2, *, seed: int = 0, **options: Any) -> Embedding:
    """UMAP (McInnes et al., arXiv 1802.03426) of the kernel's distances √(K_ii + K_jj − 2K_ij).

    It shows which examples are near; of distances further apart, and of the share explained (NaN), it says nothing.

    Args:
        kernel: of `loss_kernel`.
        num_components: of the map.
        seed: of its random start.
        options: further settings of `umap.UMAP`, such as n_neighbors.

    Raises:
        ImportError: umap-learn is not installed; the message says how to.
        ValueError: the number of components is not between 1 and that of examples, or the kernel not finite.
    """
    _check(kernel, num_components)
    try:
        from umap import UMAP
    except ImportError as error:
        raise ImportError(
            "umap_embedding needs umap-learn, got an environment without: pip install 'sltjax[umap]', or use kernel_pca"
        ) from error
    variance = np.diag(kernel.value)
    distance = np.sqrt(np.maximum(variance[:, None] + variance - 2 * kernel.value, 0.0))
    settings = {"n_neighbors": min(15, len(variance) - 1), "n_jobs": 1, **options}
    mapped = UMAP(n_components=num_components, metric="precomputed", random_state=seed, **settings)
    return Embedding(mapped.fit_transform(distance).astype(float), np.full(num_components, np.nan))


def _embedding(values: np.ndarray, vectors: np.ndarray, trace: float) -> Embedding:
    """Signs are such that the largest coordinate of each component is positive."""
    largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])]
    return Embedding(vectors * np.sign(largest) * np.sqrt(values), values / trace)


def _check(kernel: Covariance, num_components: int) -> int:
    size = len(kernel.value)
    if not 1 <= num_components <= size:
        raise ValueError(f"num_components: got {num_components}, expected 1 to {size}, the number of examples")
    if unknown := int(np.sum(~np.isfinite(np.diag(kernel.value)))):
        raise ValueError(
            f"the kernel is not finite for {unknown} of {size} examples, whose loss never moved or no chain stayed "
            "finite: leave them out"
        )
    return size
