"""Pictures of what a net has learnt.

Every function takes data and an optional ``ax`` to draw into, and returns the matplotlib Figure;
`save` writes it. Nothing touches matplotlib's global state or needs a display. matplotlib itself
is imported at the first drawing: ``pip install "siameselib[plot]"``.

``scores`` and ``same`` mean what they mean in `siameselib.evaluation`: the higher the score, the
more alike; 1 = same identity.
"""

from siameselib.plot.canvas import save
from siameselib.plot.curves import det, distance_histogram, reliability, roc
from siameselib.plot.maps import embedding_map
from siameselib.plot.photos import photo_pairs, retrieval_rows, triplet_strip
from siameselib.plot.training import training_curves

__all__ = [
    "det",
    "distance_histogram",
    "embedding_map",
    "photo_pairs",
    "reliability",
    "retrieval_rows",
    "roc",
    "save",
    "training_curves",
    "triplet_strip",
]
