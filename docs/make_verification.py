"""Draw _static/verification.png, the README's picture, from a run of the trainer on the drawings.

python examples/lfw/train.py --data synthetic --out runs/lfw
python docs/make_verification.py runs/lfw
"""

import sys
from pathlib import Path

import numpy as np

from siameselib import plot
from siameselib.data import synthetic_faces, synthetic_view
from siameselib.evaluation import Verifier
from siameselib.plot.canvas import new_figure

SHOWN = 6


def main(run: str) -> None:
    verifier = Verifier.load(Path(run, "model.pt"))
    faces = synthetic_faces(size=verifier.size)
    i, j, same = synthetic_view(faces).test.rows(faces)
    f = verifier.embed(faces.images)
    scores = verifier.scores(f[i], f[j])
    correct = (scores >= verifier.threshold) == same
    # a random draw, half same, half different, errors included as they come
    rng = np.random.default_rng(0)
    shown = np.concatenate(
        [rng.choice(np.flatnonzero(same == kind), SHOWN // 2) for kind in (1, 0)]
    )
    captions = [
        f"{verifier.judge(scores[k])}: {('wrong', 'right')[int(correct[k])]}" for k in shown
    ]
    figure = new_figure(11.5, 4.8)
    left, right = figure.subplots(1, 2, width_ratios=(4, 5))
    title = f"{SHOWN} random pairs of drawn people never trained on"
    plot.photo_pairs(
        faces.images[i[shown]], faces.images[j[shown]], captions, title, columns=2, ax=left
    )
    plot.distance_histogram(scores, same, verifier.threshold, ax=right)
    plot.save(figure, Path(__file__).parent / "_static" / "verification.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
