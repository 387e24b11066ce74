"""Pictures: they show the data they were given, nothing is cut, no display or global state."""

import subprocess
import sys
import types
from itertools import combinations

import numpy as np
import pytest
import torch

from siameselib import evaluation, plot
from siameselib.plot.maps import _spread

RNG = np.random.default_rng(0)
SAME = np.arange(400) < 100
SCORES = (RNG.normal(size=400) + 2 * SAME).round(2)
PHOTOS = RNG.integers(0, 256, (40, 12, 12, 3)).astype(np.uint8)
HISTORY = [
    {"epoch": e, "loss": 1 / e, "val_auc": 1 - 0.4 / e, "val_accuracy": 0.8, "active": 0.5}
    for e in range(1, 9)
]
CAPTIONS = ["Somebody With_A_Long_Name / Somebody Else, distance 1.234"] * 9
RIGHT = np.arange(27).reshape(9, 3) % 2 == 0
BINS = np.array([0.1, 0.5, 0.9])
BAND = (np.array([0, 0.2, 1]), np.array([0, 0.5, 1]), np.array([0.3, 0.8, 1]))
PEOPLE = np.array([f"person {i}" for i in np.minimum(np.arange(40) // 3, 11)])

FIGURES = {
    "roc": lambda ax=None: plot.roc(SCORES, SAME, ax=ax),
    "det": lambda ax=None: plot.det(SCORES, SAME, ax=ax),
    "det without errors": lambda ax=None: plot.det(SAME.astype(float), SAME, ax=ax),
    "det, upside down": lambda ax=None: plot.det(-SCORES, SAME, ax=ax),
    "histogram": lambda ax=None: plot.distance_histogram(SCORES, SAME, 1.0, ax=ax),
    "histogram, all equal": lambda ax=None: plot.distance_histogram(0 * SCORES, SAME, 0, ax=ax),
    "pairs": lambda ax=None: plot.photo_pairs(PHOTOS[:9], PHOTOS[9:18], CAPTIONS, ax=ax),
    "no pairs": lambda ax=None: plot.photo_pairs(PHOTOS[:0], PHOTOS[:0], ax=ax),
    "strip": lambda ax=None: plot.triplet_strip(
        PHOTOS[:9], PHOTOS[9:18], PHOTOS[18:27], CAPTIONS, ax=ax
    ),
    "rows": lambda ax=None: plot.retrieval_rows(
        PHOTOS[:9], PHOTOS[9:36].reshape(9, 3, 12, 12, 3), RIGHT, CAPTIONS, ax=ax
    ),
    "no rows": lambda ax=None: plot.retrieval_rows(
        PHOTOS[:0], PHOTOS[:0].reshape(0, 3, 12, 12, 3), RIGHT[:0], ax=ax
    ),
    "roc with band": lambda ax=None: plot.roc(SCORES, SAME, band=BAND, ax=ax),
    "det with band": lambda ax=None: plot.det(SCORES, SAME, band=BAND, ax=ax),
    "reliability": lambda ax=None: plot.reliability(
        BINS, BINS, 100 * BINS, low=0 * BINS, high=0 * BINS + 1, ax=ax
    ),
    "map": lambda ax=None: plot.embedding_map(RNG.normal(size=(40, 8)), PEOPLE, PHOTOS, ax=ax),
    "map, collapsed": lambda ax=None: plot.embedding_map(np.ones((40, 1)), PEOPLE, PHOTOS, ax=ax),
}


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


@pytest.mark.parametrize("name", [*FIGURES, "training", "training, one epoch"])
def test_no_text_is_cut(name):
    if name.startswith("training"):
        figure = plot.training_curves(HISTORY[: 1 if "one" in name else None], trivial=0.7)
    else:
        figure = FIGURES[name]()
    figure.draw_without_rendering()
    for part in (*figure.axes, *figure.legends):
        box = part.get_tightbbox()
        assert min(box.x0, box.y0) >= 0, box
        assert (figure.bbox.max - box.max).min() >= 0, (box, figure.bbox.max)


def test_captions_do_not_overlap():
    for name in ("pairs", "strip", "rows"):
        figure = FIGURES[name]()
        figure.draw_without_rendering()
        captions = [t for t in figure.axes[0].texts if "Somebody" in t.get_text()]
        boxes = [caption.get_window_extent() for caption in captions]
        assert len(boxes) == 9
        assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))


@pytest.mark.parametrize("name", FIGURES)
def test_draws_into_given_axes(name):
    host = plot.canvas.new_figure(4, 4)
    ax = host.add_subplot()
    assert FIGURES[name](ax=ax) is host
    assert host.axes == [ax]
    assert ax.has_data() or ax.texts


def test_roc_shows_the_curve():
    ax = plot.roc(SCORES, SAME, label="ours").axes[0]
    far, tar, _ = evaluation.roc_curve(SCORES, SAME)
    np.testing.assert_array_equal(ax.lines[1].get_xydata(), np.stack([far, tar], 1))
    equal = evaluation.eer(SCORES, SAME)
    np.testing.assert_allclose(ax.lines[2].get_xydata(), [[equal, 1 - equal]])
    area = evaluation.auc(SCORES, SAME)
    assert legend(ax) == ["chance", f"ours: AUC {area:.3f}, equal error rate {equal:.3f}"]
    assert ax.get_title() == "ROC of 400 pairs (100 same)"


def test_curves_share_axes():
    figure = plot.roc(SCORES, SAME, label="a")
    assert plot.roc(-SCORES, SAME, label="b", ax=figure.axes[0]) is figure
    names = [text.split(":")[0] for text in legend(figure.axes[0])]
    assert names == ["chance", "a", "b"]


def test_det_draws_only_what_ten_errors_support():
    ax = plot.det(torch.tensor(SCORES), torch.tensor(SAME)).axes[0]
    far, tar, _ = evaluation.roc_curve(SCORES, SAME)
    enough = np.minimum(np.rint(far * 300), np.rint((1 - tar) * 100)) >= 10
    solid = next(line for line in ax.lines if line.get_label().startswith("DET"))
    np.testing.assert_allclose(solid.get_xydata(), np.stack([far, 1 - tar], 1)[enough])
    forward = ax.xaxis.get_transform()
    np.testing.assert_allclose(forward.transform([0.5, 0.975]), [0, 1.959964], atol=1e-6)
    np.testing.assert_allclose(forward.inverted().transform([0, -1.644854]), [0.5, 0.05], 1e-5)


@pytest.mark.parametrize("distances", [False, True])
def test_histogram_counts_the_errors(distances):
    values = -SCORES if distances else SCORES
    ax = plot.distance_histogram(
        values, SAME, -1.0 if distances else 1.0, distances=distances
    ).axes[0]
    rejected, accepted = (SCORES[SAME] < 1).sum(), (SCORES[~SAME] >= 1).sum()
    assert legend(ax)[:2] == [
        f"same: 100 pairs, {rejected} rejected",
        f"different: 300 pairs, {accepted} accepted",
    ]
    accuracy, _ = evaluation.accuracy_at(SCORES, SAME, 1.0)
    assert ax.get_title().endswith(f"of 400 pairs (100 same): accuracy {accuracy:.3f}")
    for steps in ax.patches:
        assert steps.get_data().values.sum() == pytest.approx(100)


def test_training_curves_show_what_is_there():
    history = [*HISTORY, {"epoch": 9, "loss": float("nan")}, {"epoch": 10, "val_auc": None}]
    above, below = plot.training_curves(history, trivial=0.7).axes
    loss, trivial = above.lines
    np.testing.assert_array_equal(loss.get_xdata(), range(1, 11))
    np.testing.assert_array_equal(loss.get_ydata()[:8], [row["loss"] for row in HISTORY])
    assert np.isnan(loss.get_ydata()[8:]).all()
    assert set(trivial.get_ydata()) == {0.7}
    assert legend(below) == [
        "validation accuracy, last 0.8",
        "validation AUC, last 0.95",
        "active share of the batch, last 0.5",
    ]
    with_key = plot.training_curves([{"loss": 1.0, "trivial": 0.3}])
    assert with_key.axes[0].lines[1].get_ydata() == [0.3]
    host = plot.canvas.new_figure(4, 4)
    axes = host.subplots(1, 2)
    assert plot.training_curves(HISTORY, axes=tuple(axes)) is host


def test_photos_are_the_ones_given():
    figure = plot.photo_pairs(torch.tensor(PHOTOS[:5]), PHOTOS[5:10], title="five", columns=2)
    images = figure.axes[0].images
    assert len(images) == 10
    np.testing.assert_array_equal(images[0].get_array(), PHOTOS[0])
    np.testing.assert_array_equal(images[9].get_array(), PHOTOS[9])
    grey = plot.triplet_strip(*[PHOTOS[:2, :, :, :1]] * 3).axes[0].images
    np.testing.assert_array_equal(grey[0].get_array(), np.repeat(PHOTOS[0, :, :, :1], 3, 2))


def test_rows_frame_what_is_right():
    ax = FIGURES["rows"]().axes[0]
    assert ax.get_title() == "9 queries, 3 neighbours each: 14 right of 27"
    np.testing.assert_array_equal(ax.images[4 * 2].get_array(), PHOTOS[2])
    np.testing.assert_array_equal(ax.images[4 * 2 + 3].get_array(), PHOTOS[9 + 2 * 3 + 2])
    frames = [line for line in ax.lines if len(line.get_xdata()) == 5]
    colours = [line.get_color() for line in frames]
    wrong = [colour == plot.canvas.DIFFERENT for colour in colours]
    np.testing.assert_array_equal(np.reshape(wrong, (9, 4))[:, 1:], ~RIGHT)
    assert wrong == [line.get_linestyle() == "--" for line in frames]
    assert set(colours[::4]) == {plot.canvas.BLACK}
    assert [text.get_text() for text in ax.texts[:4]] == ["query", "1", "2", "3"]


@pytest.mark.parametrize("draw", [plot.roc, plot.det])
def test_a_band_lies_where_it_was_given(draw):
    figure = draw(SCORES, SAME, band=BAND, band_label="90 % of 200 draws")
    ax = figure.axes[0]
    (band,) = (c for c in ax.collections if c.get_label() == "90 % of 200 draws")
    corners = band.get_paths()[0].vertices
    assert np.isfinite(corners).all()
    for far, low, high in list(zip(*BAND, strict=True))[1:2]:
        at = corners[np.isclose(corners[:, 0], far)][:, 1]
        np.testing.assert_allclose([at.min(), at.max()], [low, high])
    assert "90 % of 200 draws" in legend(ax)


def test_reliability_shows_the_bins():
    counts = [0, 40, 60]
    ax = plot.reliability([0.1, 0.5, 0.9], [np.nan, 0.4, 1], counts).axes[0]
    assert ax.get_title() == "Reliability of 100 pairs"
    points = ax.collections[0]
    np.testing.assert_allclose(points.get_offsets(), [[0.5, 0.4], [0.9, 1]])
    assert points.get_sizes()[0] < points.get_sizes()[1]
    assert legend(ax) == ["as often as it says", "observed"]
    ax = plot.reliability(BINS, BINS, BINS, low=BINS / 2, high=BINS, interval_label="68 %").axes[0]
    ends = [segment[:, 1].tolist() for segment in ax.collections[0].get_segments()]
    np.testing.assert_allclose(ends, np.stack([BINS / 2, BINS], 1))
    assert legend(ax)[1] == "68 %"


def test_map_by_umap(monkeypatch):
    """The arrangement is somebody else's: here it is checked what is asked and drawn."""
    asked = {}

    class Arranger:
        def __init__(self, **keywords):
            asked.update(keywords)

        def fit_transform(self, array):
            return array[:, :2] * [1, -1]

    monkeypatch.setitem(sys.modules, "umap", types.SimpleNamespace(UMAP=Arranger))
    embeddings = RNG.normal(size=(40, 5))
    ax = plot.embedding_map(embeddings, np.zeros(40), method="umap", seed=4).axes[0]
    np.testing.assert_allclose(ax.collections[0].get_offsets(), embeddings[:, :2] * [1, -1])
    assert ax.get_xlabel() == "UMAP 1 (no unit)"
    assert (asked["n_neighbors"], asked["random_state"]) == (15, 4)
    with pytest.raises(ValueError, match="embeddings must be four or more for UMAP, got 3"):
        plot.embedding_map(embeddings[:3], np.zeros(3), method="umap")


def test_missing_umap_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ImportError, match="python -m pip install umap-learn"):
        plot.embedding_map(np.eye(5), np.zeros(5), method="umap")


def test_umap_keeps_clusters_together():
    pytest.importorskip("umap")
    labels = np.arange(60) % 3
    embeddings = 9 * np.eye(8)[labels] + 0.1 * RNG.normal(size=(60, 8))
    figures = [plot.embedding_map(embeddings, labels, method="umap") for _ in range(2)]
    groups, again = ([c.get_offsets() for c in f.axes[0].collections] for f in figures)
    np.testing.assert_array_equal(groups, again)  # the same seed, the same map
    centres = np.array([group.mean(0) for group in groups])
    inside = max(np.ptp(group, axis=0).max() for group in groups)
    gaps = np.linalg.norm(centres[:, None] - centres, axis=-1)[np.triu_indices(3, 1)]
    assert gaps.min() > inside


def test_map_is_the_principal_plane():
    embeddings = RNG.normal(size=(40, 5)) * [1, 9, 1, 4, 1]
    ax = plot.embedding_map(torch.tensor(embeddings), torch.arange(40) % 3).axes[0]
    points = np.concatenate([group.get_offsets() for group in ax.collections])
    order = np.concatenate([np.arange(40)[np.arange(40) % 3 == k] for k in (0, 1, 2)])
    centred = (embeddings - embeddings.mean(0))[order]
    covariance, directions = np.linalg.eigh(centred.T @ centred)
    expected = centred @ directions[:, [-1, -2]]
    np.testing.assert_allclose(np.abs(points), np.abs(expected), atol=1e-9)
    share = 100 * covariance[-1] / covariance.sum()
    assert ax.get_xlabel() == f"principal axis 1 ({share:.0f} % of the variance)"
    assert ax.get_title() == "40 embeddings of 3 identities"


def test_map_names_the_most_frequent():
    names = ["rare"] + ["often"] * 5 + [f"n{i}" for i in range(9) for _ in range(2)]
    figure = plot.embedding_map(RNG.normal(size=(24, 4)), names)
    entries = [text.get_text() for text in figure.legends[0].get_texts()]
    assert entries[0] == "often (5)"
    assert entries[-1] == "4 others (7)"
    assert len(entries) == 8


@pytest.mark.parametrize("name", ["", "Person", "Somebody's name"])
def test_a_square_map_is_neither_cut_nor_far_from_its_legend(name):
    points = np.random.default_rng(0).uniform(-0.7, 0.7, (80, 2))
    figure = plot.embedding_map(points, [f"{name} {k // 10}" for k in range(80)])
    figure.draw_without_rendering()
    (ax,), (legend,) = figure.axes, figure.legends
    assert ax.get_tightbbox().x0 > 0
    assert 0 < legend.get_window_extent().x0 - ax.get_window_extent().x1 < 60


def test_thumbnails_do_not_overlap():
    points = RNG.random((500, 2))
    chosen = points[_spread(points, 0.1)]
    gaps = np.abs(chosen[:, None] - chosen[None]).max(-1) + np.eye(len(chosen))
    assert len(chosen) > 20
    assert gaps.min() > 0.1


def test_save_is_atomic(tmp_path):
    path = tmp_path / "plots" / "roc.png"
    plot.save(plot.roc(SCORES, SAME), path)
    whole = path.read_bytes()
    assert whole.startswith(b"\x89PNG")

    class Broken:
        def savefig(self, where, dpi):
            where.write_bytes(b"half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        plot.save(Broken(), path)
    assert path.read_bytes() == whole
    assert list(path.parent.iterdir()) == [path]


def test_no_display_and_no_global_state():
    code = (
        "import sys; import siameselib.plot as plot; assert 'matplotlib' not in sys.modules;"
        "plot.roc([1, 0], [1, 0]); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_missing_matplotlib_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "siameselib\[plot\]"'):
        plot.roc(SCORES, SAME)


@pytest.mark.parametrize(
    ("draw", "kind", "message"),
    [
        (lambda: plot.training_curves([]), ValueError, "history must hold at least one epoch"),
        (
            lambda: plot.photo_pairs(PHOTOS[:2], PHOTOS[:3]),
            ValueError,
            r"images_b must have the shape of images_a, \(2, 12, 12, 3\), got \(3, 12, 12, 3\)",
        ),
        (
            lambda: plot.retrieval_rows(PHOTOS[:9], PHOTOS[:27], RIGHT),
            ValueError,
            r"neighbours must have shape \(n, k, ...\) .*, got \(27, 12, 12, 3\)",
        ),
        (
            lambda: plot.retrieval_rows(PHOTOS[:1], PHOTOS[None, :3], RIGHT),
            ValueError,
            r"right must have shape \(1, 3\), got \(9, 3\)",
        ),
        (
            lambda: plot.roc(SCORES, SAME, band=(BINS, BINS, BINS[:2])),
            ValueError,
            r"band must be three vectors of one length, got \(2,\)",
        ),
        (
            lambda: plot.roc(SCORES, SAME, band=(BINS, BINS, BINS - 0.1)),
            ValueError,
            "band must hold rising false-accept rates, and at each the lower rate first",
        ),
        (
            lambda: plot.det(SCORES, SAME, band=(BINS, BINS, BINS + 0.2)),
            ValueError,
            r"band\[2\] must hold rates between 0 and 1",
        ),
        (
            lambda: plot.reliability(BINS, BINS, 0 * BINS),
            ValueError,
            "counts must count some pairs, got none",
        ),
        (
            lambda: plot.reliability(BINS, BINS + 1, BINS),
            ValueError,
            "shares must hold rates between 0 and 1",
        ),
        (
            lambda: plot.reliability(BINS, BINS[:2], BINS),
            ValueError,
            r"shares must be vectors of one length, got \(2,\)",
        ),
        (
            lambda: plot.reliability(BINS, BINS, BINS, low=BINS),
            ValueError,
            "low and high must be given together",
        ),
        (
            lambda: plot.embedding_map(np.eye(5), np.zeros(5), method="tsne"),
            ValueError,
            "method must be one of 'pca', 'umap'",
        ),
        (
            lambda: plot.photo_pairs(PHOTOS[:2], PHOTOS[:2], ["one"]),
            ValueError,
            r"captions must be one per column of photos \(2\), got 1",
        ),
        (
            lambda: plot.triplet_strip(*[PHOTOS.transpose(0, 3, 1, 2)] * 3),
            ValueError,
            r"anchor must have shape \(n, height, width, 3\) .*, got \(40, 3, 12, 12\)",
        ),
        (
            lambda: plot.triplet_strip(*[PHOTOS / 255] * 3),
            TypeError,
            "anchor must be uint8, got float64",
        ),
        (
            lambda: plot.embedding_map(np.ones(3), [1, 1, 2]),
            ValueError,
            r"embeddings must have shape \(n, d\), got \(3,\)",
        ),
        (
            lambda: plot.embedding_map(np.full((3, 2), np.nan), [1, 1, 2]),
            ValueError,
            "embeddings must be finite",
        ),
        (
            lambda: plot.embedding_map(np.ones((3, 2)), [[1], [1], [2]]),
            ValueError,
            r"labels must have shape \(n,\) = \(3,\), got \(3, 1\)",
        ),
        (
            lambda: plot.embedding_map(np.ones((3, 2)), [1, 1, 2], PHOTOS),
            ValueError,
            r"images must be one per embedding \(3\), got 40",
        ),
    ],
)
def test_bad_input_is_refused(draw, kind, message):
    with pytest.raises(kind, match=message):
        draw()
