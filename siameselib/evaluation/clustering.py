"""Clustering: do the identities fall apart into clusters by themselves?"""

from siameselib import _check
from siameselib.evaluation.inputs import Values, check_embeddings, check_labels
from siameselib.evaluation.scores import METRICS
from siameselib.functional.distances import unit_rows


def cluster_nmi(
    embeddings: Values, labels: Values, *, metric: str = "euclidean", seed: int = 0
) -> float:
    r"""Cluster the embeddings with k-means, k the number of identities, and compare.

    With C the clusters and Y the identities, NMI = 2 I(C; Y) / (H(C) + H(Y)): 1 where they agree,
    0 where they have nothing to do with each other. It depends on the seed, and it grows with the
    number of identities even for embeddings that know nothing: prefer `evaluate_retrieval`, which
    is exact, and give this figure where others have given it.

    Args:
        embeddings: one per image.
        labels: their identities, integers or names.
        metric: "euclidean", "sqeuclidean" (the same) or "cosine", which clusters unit vectors.
        seed: where k-means starts; the best of ten starts counts.

    Shape:
        embeddings: (n, d). labels: (n,).

    Returns:
        The normalised mutual information, in [0, 1].

    Raises:
        ValueError: Shapes differ, an embedding is not finite, or there is one identity only.
        TypeError: Embeddings that are not floating point, labels that are floating point.
        ImportError: scikit-learn is not installed.

    Example:
        >>> cluster_nmi([[0.0], [0.1], [1.0], [1.1]], ["Ann", "Ann", "Bob", "Bob"])
        1.0

    Source:
        Manning, Raghavan and Schütze 2008, section 16.3; k-means and NMI of scikit-learn.
    """
    x = check_embeddings("cluster_nmi", embeddings)
    identities = check_labels("cluster_nmi", labels, len(x))
    _check.choice("cluster_nmi", "metric", metric, METRICS)
    seed = _check.integer("cluster_nmi", "seed", seed, 0)
    k = len(set(identities.tolist()))
    if k < 2:
        raise _check.refuse("cluster_nmi", "labels", "name two identities or more", k)
    try:
        from sklearn.cluster import KMeans
        from sklearn.metrics import normalized_mutual_info_score
    except ImportError as error:
        message = "cluster_nmi needs scikit-learn: python -m pip install scikit-learn"
        raise ImportError(message) from error
    points = (unit_rows(x) if metric == "cosine" else x).cpu().numpy()
    clusters = KMeans(k, n_init=10, random_state=seed).fit_predict(points)
    return float(normalized_mutual_info_score(identities, clusters))
