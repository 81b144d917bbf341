"""Groups of things that are alike."""

import numpy as np
from jaxtyping import Float, Int


def average_linkage(similarity: Float[np.ndarray, "n n"], together: float) -> Int[np.ndarray, " n"]:
    """Group by average linkage, cut where two groups would be less alike than `together` on average.

    Args:
        similarity: symmetric, 1 for what is the same.
        together: the least mean similarity of two groups that are joined.

    Returns:
        A number for each group, in no order.
    """
    from sklearn.cluster import AgglomerativeClustering

    if len(similarity) == 1:
        return np.zeros(1, int)
    clustering = AgglomerativeClustering(
        n_clusters=None, metric="precomputed", linkage="average", distance_threshold=1 - together
    )
    return clustering.fit_predict(1 - similarity)
