r"""Row-wise log-sum-exp of scaled similarities over the columns of other identities.

.. math:: N_i = \log \sum_{j:\; id_j \ne id_i} e^{scale\; x_i \cdot y_j}
"""

import torch
from torch import Tensor


def reference(x: Tensor, y: Tensor, x_ids: Tensor, y_ids: Tensor, scale: float) -> Tensor:
    """Return N, by the definition; -inf for a row without columns of other identities."""
    similarity = scale * (x @ y.T)
    return similarity.masked_fill(x_ids[:, None] == y_ids, -torch.inf).logsumexp(1)
