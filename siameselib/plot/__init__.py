"""Pictures of what a net has learnt.

Every function takes data and an optional ``ax`` to draw into, and returns the matplotlib Figure;
`save` writes it. Nothing touches matplotlib's global state or needs a display. matplotlib itself
is imported at the first drawing: ``pip install "siameselib[plot]"``.

``scores`` and ``same`` mean what they mean in `siameselib.evaluation`: the higher the score, the
more alike; 1 = same identity.
"""

from siameselib.plot.canvas import save
from siameselib.plot.curves import det, distance_histogram, roc, training_curves
from siameselib.plot.photos import embedding_map, photo_pairs, triplet_strip

__all__ = [
    "det",
    "distance_histogram",
    "embedding_map",
    "photo_pairs",
    "roc",
    "save",
    "training_curves",
    "triplet_strip",
]
