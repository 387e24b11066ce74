"""The faults planted in training, each with the finding that it must lead to."""

import torch
from torch import nn

import siameselib as sl
from benchmarks.doctor import plants
from benchmarks.doctor.plants import build, change, grouped, planted, relabel
from benchmarks.doctor.script import WIDTH, adam

TRAINING = (
    planted(
        "labels-inverted",
        "1 means different",
        "drawings",
        "contrastive",
        relabel(lambda same: 1 - same),
    ),
    planted(
        "labels-inverted",
        "1 means different",
        "gaussian",
        "torch-cosine",
        relabel(lambda same: 1 - same),
    ),
    planted(
        "labels-inverted",
        "distances given as similarities",
        "gaussian",
        "supcon",
        change(sign=-1),
    ),
    planted(
        "labels-as-column", "labels of shape (n, 1)", "gaussian", "contrastive", plants.flattened
    ),
    planted(
        "pair-labels-as-identities",
        "0/1 labels in a batch loss",
        "drawings",
        "pml-triplet",
        relabel(lambda labels: labels % 2),
    ),
    planted(
        "one-vs-rest", "one against the rest", "drawings", "pml-triplet", plants.one_against_rest
    ),
    planted(
        "one-kind-of-pair", "a list sorted by label", "gaussian", "contrastive", plants.sorted_pairs
    ),
    planted(
        "few-positives", "rows at random", "drawings", "pml-triplet", grouped(plants.random_rows)
    ),
    planted(
        "few-identities",
        "rows in the order of the files",
        "gaussian",
        "supcon",
        grouped(plants.sorted_rows),
    ),
    planted(
        "sigmoid-twice",
        "a sigmoid before BCE on logits",
        "gaussian",
        "bce-distance",
        build(head=plants.Squashed),
    ),
    planted(
        "sigmoid-before-margin",
        "contrastive, m = 2, on a probability",
        "drawings",
        "bce-distance",
        plants.squash_and_square,
    ),
    planted(
        "head-additive",
        "a linear layer on [f1, f2]",
        "drawings",
        "bce-interaction",
        build(head=lambda: sl.ConcatHead(WIDTH)),
    ),
    planted(
        "head-asymmetric",
        "an MLP on [f1, f2]",
        "gaussian",
        "bce-interaction",
        build(head=plants.Hidden),
    ),
    planted(
        "logits-starved", "L1-normalised differences", "drawings", "bce-interaction", plants.starve
    ),
    planted(
        "no-gradient", ".detach() before the last layer", "drawings", "batch-hard", plants.detached
    ),
    planted(
        "weights-not-moving",
        "a learning rate of 0",
        "gaussian",
        "supcon",
        change(make_optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=0.0)),
    ),
    planted(
        "weights-not-moving",
        "a layer replaced after the optimiser was made",
        "drawings",
        "supcon",
        change(make_optimizer=plants.half_an_optimizer),
    ),
    planted(
        "learning-rate-too-low",
        "Adam at 1e-8",
        "drawings",
        "supcon",
        change(make_optimizer=lambda model: adam(model, 1e-8)),
    ),
    planted(
        "learning-rate-too-high",
        "Adam at 3",
        "drawings",
        "batch-hard",
        change(make_optimizer=lambda model: adam(model, 3.0)),
    ),
    planted(
        "margin-inactive",
        "contrastive, m = 1, distances near 50",
        "gaussian",
        "contrastive",
        change(criterion=sl.ContrastiveLoss(margin=1.0), embed=plants.scaled(20.0), steps=40),
    ),
    planted(
        "margin-inactive",
        "triplets, m = 0.05, distances near 50",
        "drawings",
        "torch-triplet",
        change(criterion=nn.TripletMarginLoss(margin=0.05), embed=plants.scaled(30.0), steps=40),
    ),
    planted(
        "margin-unsatisfiable",
        "m = 10 on embeddings of length 1",
        "drawings",
        "contrastive",
        change(criterion=sl.ContrastiveLoss(margin=10.0)),
    ),
    planted(
        "margin-unsatisfiable",
        "m = 10 on sigmoid embeddings",
        "gaussian",
        "torch-triplet",
        change(
            criterion=nn.TripletMarginLoss(margin=10.0),
            embed=lambda model, x: torch.sigmoid(model.backbone(x)),
        ),
    ),
    planted("zero-rows", "a last ReLU that is off", "drawings", "torch-triplet", plants.dead_relu),
    planted(
        "total-collapse",
        "a loss of same pairs only",
        "drawings",
        "contrastive",
        plants.collapse,
    ),
    planted(
        "dimensional-collapse", "a layer of width 1", "gaussian", "torch-triplet", plants.bottleneck
    ),
    planted(
        "dead-dimensions",
        "a ReLU that shuts 3 entries of 4",
        "drawings",
        "supcon",
        plants.dead_entries,
    ),
    planted(
        "dead-units", "a hidden layer, 3 units of 4 off", "drawings", "supcon", plants.dead_layer
    ),
    planted(
        "gradients-vanish", "twelve sigmoid layers", "gaussian", "supcon", plants.deep_sigmoids
    ),
    planted("gradients-explode", "gradient ascent", "gaussian", "contrastive", plants.runaway),
    planted("non-finite", "the square root of 0", "drawings", "batch-all", plants.not_finite),
    planted(
        "loss-at-trivial", "labels are noise", "drawings", "bce-interaction", relabel(plants.noise)
    ),
    planted("loss-at-trivial", "labels are noise", "gaussian", "pml-supcon", relabel(plants.noise)),
    planted(
        "nothing-active",
        "random triplets, all easy",
        "gaussian",
        "torch-triplet",
        plants.easy_triplets,
    ),
    planted(
        "duplicates-in-pairs",
        "half of the same pairs: one image",
        "gaussian",
        "contrastive",
        plants.self_pairs,
    ),
    planted(
        "duplicates-across-identities",
        "one image, two names",
        "drawings",
        "contrastive",
        plants.wrong_twins,
    ),
    planted("threshold-error", "a threshold near 0", "gaussian", "supcon", change(threshold=-0.01)),
    planted(
        "frozen-but-moving",
        "requires_grad_(False) on a trunk with BatchNorm",
        "drawings",
        "batch-hard",
        change(prepare=plants.frozen_trunk),
    ),
    planted(
        "train-eval-gap",
        "BatchNorm that remembers nothing",
        "drawings",
        "supcon",
        plants.small_passes,
    ),
    planted("overfitting", "fourteen people", "drawings", "supcon", plants.few_images),
)
