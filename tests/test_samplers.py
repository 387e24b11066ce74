"""Sampler invariants over random label partitions, resuming, DataLoaders, refusals, cost."""

import json
import random
import time
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, TensorDataset

from siameselib import Pairs, PairSampler, PKSampler

partitions = st.lists(st.integers(1, 9), min_size=1, max_size=12)
quick = settings(max_examples=120, deadline=None)


def shuffled_labels(sizes, seed=0):
    """Identity c, named 7·c − 20, has sizes[c] images, in mixed order."""
    names = 7 * np.arange(len(sizes)) - 20
    return np.random.default_rng(seed).permutation(np.repeat(names, sizes))


def images_of(labels):
    images = defaultdict(set)
    for k, label in enumerate(labels.tolist()):
        images[label].add(k)
    return images


def epoch(sampler, number):
    sampler.set_epoch(number)
    return list(sampler)


def in_lists(sampler):
    return [np.asarray(batch).tolist() for batch in sampler]


# --- P × K ------------------------------------------------------------------------------------


@st.composite
def pk_samplers(draw):
    labels = shuffled_labels(draw(partitions), draw(st.integers(0, 9)))
    K = draw(st.integers(2, 5))
    policy = draw(st.sampled_from(["negatives", "drop", "repeat"]))
    images = images_of(labels)
    least = {"negatives": 2, "drop": K, "repeat": 1}[policy]
    eligible = {c for c in images if len(images[c]) >= least}
    assume(eligible)
    P = draw(st.integers(1, len(eligible)))
    single = {k for c in images if len(images[c]) == 1 for k in images[c]}
    S = draw(st.integers(0, len(single))) if policy == "negatives" else 0
    seed = draw(st.integers(0, 99))
    sampler = PKSampler(labels, P, K, singletons=policy, extra_singletons=S, seed=seed)
    return sampler, labels, images, eligible, single, (P, K, S)


@quick
@given(pk_samplers(), st.integers(0, 3))
def test_pk_batches_hold_exactly_p_identities_of_k_images(case, number):
    sampler, labels, images, eligible, single, (P, K, S) = case
    for batch in epoch(sampler, number):
        assert len(batch) == P * K + S
        assert all(type(k) is int for k in batch)
        groups = [batch[K * p : K * p + K] for p in range(P)]
        identities = [labels[group[0]] for group in groups]
        assert len(set(identities)) == P
        assert set(identities) <= eligible
        for group, identity in zip(groups, identities, strict=True):
            assert set(labels[group]) == {identity}
            counts = Counter(group).values()
            assert len(counts) == min(K, len(images[identity]))
            assert max(counts) - min(counts) <= 1
        extra = batch[P * K :]
        assert len(set(extra)) == S
        assert set(extra) <= single


@quick
@given(pk_samplers(), st.integers(0, 3))
def test_pk_epoch_shows_every_image_and_repeats_none_before(case, number):
    sampler, labels, images, eligible, _, (P, K, _S) = case
    batches = epoch(sampler, number)
    seen = defaultdict(set)
    turns = Counter()
    for batch in batches:
        for p in range(P):
            group = batch[K * p : K * p + K]
            identity = labels[group[0]]
            again = len(group) > len(set(group)) or seen[identity] & set(group)
            seen[identity] |= set(group)
            turns[identity] += 1
            if again:
                assert seen[identity] == images[identity]
    assert dict(seen) == {identity: images[identity] for identity in eligible}

    needed = {c: -(-len(images[c]) // K) for c in eligible}
    shortest = max(-(-sum(needed.values()) // P), max(needed.values()))
    assert len(sampler) == len(batches) == shortest
    spare = [turns[c] - needed[c] for c in eligible if turns[c] < len(batches)]
    assert all(turns[c] >= needed[c] for c in eligible)
    assert not spare or max(spare) - min(spare) <= 1


@quick
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 4), st.integers(0, 99))
def test_pk_singletons_take_turns_across_epochs(n, S, others, seed):
    labels = shuffled_labels([1] * n + [2] * others)
    S = min(S, n)
    sampler = PKSampler(labels, 1, 2, extra_singletons=S, seed=seed)
    chunk = -(-n // S)  # batches that show every single-image identity once
    drawn = [batch[2:] for e in range(2 * chunk) for batch in epoch(sampler, e)]
    for start in range(0, len(drawn) - chunk + 1, chunk):
        rows = [k for rows in drawn[start : start + chunk] for k in rows]
        assert len(set(rows[:n])) == n
        assert max(Counter(labels[rows].tolist()).values()) <= 2


@quick
@given(pk_samplers(), st.integers(0, 3))
def test_pk_coverage_counts_what_the_epoch_shows(case, number):
    sampler, labels, images, _, single, _ = case
    sampler.set_epoch(number)
    told = sampler.coverage()
    batches = list(sampler)
    rows = [k for batch in batches for k in batch]
    shown = set(rows)
    assert told.batches == len(batches)
    assert told.rows == len(rows)
    assert told.images == len(labels)
    assert told.covered == len(shown)
    assert told.repeats == len(rows) - len(shown)
    assert told.identities == len(images)
    assert told.identities_covered == len({labels[k] for k in shown})
    assert told.singletons == len(single)
    assert told.singletons_used == len(single & shown)


def test_pk_coverage_in_words():
    labels = np.repeat(np.arange(1200), 1)
    labels = np.concatenate([labels, np.repeat(np.arange(2000, 2010), 4)])
    sampler = PKSampler(labels, 5, 4, extra_singletons=3)
    assert str(sampler.coverage()) == (
        "46 of 1,240 images of 16 of 1,210 identities in 2 batches (46 rows, 0 of them repeats); "
        "6 of 1,200 single-image identities used"
    )


def test_pk_pairs_of_identities_meet_evenly():
    labels = np.repeat(np.arange(12), 2)
    sampler = PKSampler(labels, 4, 2)
    met = np.zeros((12, 12))
    for e in range(2000):
        for batch in epoch(sampler, e):
            who = labels[batch[::2]]
            met[np.ix_(who, who)] += 1
    off = met[~np.eye(12, dtype=bool)]
    assert np.diag(met).tolist() == [2000] * 12
    expected = 2000 * 3 / 11
    assert np.abs(off - expected).max() < 6 * np.sqrt(expected)


def test_pk_big_identity_among_small_ones():
    labels = np.repeat(np.arange(9), [41, 2, 2, 2, 2, 2, 2, 2, 2])
    sampler = PKSampler(labels, 4, 2)
    assert len(sampler) == 21  # the identity of 41 images is in every batch
    turns = Counter(labels[k] for batch in sampler for k in batch[::2])
    assert turns[0] == 21
    assert sum(turns.values()) == 84
    assert {turns[c] for c in range(1, 9)} == {7, 8}


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"P": 4}, r"P must be at most the 3 identities with at least 2 images, got 4"),
        ({"P": 3, "singletons": "drop"}, r"at most the 2 identities with at least 3 images, got 3"),
        ({"P": 6, "singletons": "repeat"}, r"at most the 5 identities with at least 1 image, got"),
        ({"P": 0}, r"P must be at least 1, got 0"),
        ({"K": 1}, r"K must be at least 2, got 1"),
        ({"singletons": "keep"}, r"singletons must be one of 'negatives', 'drop', 'repeat'"),
        (
            {"extra_singletons": 3},
            r"extra_singletons must be at most the 2 identities with 1 image",
        ),
        ({"extra_singletons": -1}, r"extra_singletons must be at least 0, got -1"),
        (
            {"extra_singletons": 1, "singletons": "repeat"},
            r"extra_singletons must be 0 with singletons='repeat', got 1",
        ),
        ({"seed": -1}, r"seed must be at least 0"),
    ],
)
def test_pk_refuses_the_impossible(kwargs, message):
    with pytest.raises(ValueError, match="^PKSampler: .*" + message):
        PKSampler(shuffled_labels([3, 2, 4, 1, 1]), **{"P": 2, "K": 3, **kwargs})


def test_numbers_are_integers():
    labels = shuffled_labels([3, 3])
    with pytest.raises(TypeError, match=r"K must be an integer, got 2\.0"):
        PKSampler(labels, 2, 2.0)
    with pytest.raises(TypeError, match="P must be an integer, got True"):
        PKSampler(labels, True, 2)
    numpy_too = PKSampler(labels, np.int64(2), np.int32(2), seed=np.uint8(3))
    assert list(numpy_too) == list(PKSampler(labels, 2, 2, seed=3))
    json.dumps(numpy_too.state_dict())


# --- pairs ------------------------------------------------------------------------------------


@st.composite
def pair_samplers(draw):
    labels = shuffled_labels(draw(partitions), draw(st.integers(0, 9)))
    images = images_of(labels)
    assume(len(labels) > 1)
    if len(images) == 1:
        fraction = 1.0
    elif len(images) == len(labels):
        fraction = 0.0
    else:
        fraction = draw(st.sampled_from([0.0, 0.1, 0.25, 0.5, 1 / 3, 0.9, 1.0]))
    size = draw(st.integers(1, len(labels)))
    batches = draw(st.none() | st.integers(1, 30))
    sampler = PairSampler(
        labels,
        batch_size=size,
        positive_fraction=fraction,
        num_batches=batches,
        seed=draw(st.integers(0, 99)),
    )
    return sampler, labels, images, size, fraction, batches


@quick
@given(pair_samplers(), st.integers(0, 3))
def test_pairs_are_what_they_say(case, number):
    sampler, labels, images, size, fraction, asked = case
    batches = epoch(sampler, number)
    assert len(batches) == len(sampler) == (asked or -(-len(labels) // (2 * size)))
    single = {k for c in images if len(images[c]) == 1 for k in images[c]}
    positives, counted = 0, 0
    for i, j, same in batches:
        assert len(i) == len(j) == len(same) == size
        assert (i != j).all()
        assert ((labels[i] == labels[j]) == (same == 1)).all()
        assert set(same.tolist()) <= {0, 1}
        assert not single & set(i[same == 1].tolist() + j[same == 1].tolist())
        positives, counted = positives + int(same.sum()), counted + size
        assert counted * fraction - 1 < positives <= counted * fraction + 1e-6


@quick
@given(pair_samplers(), st.integers(0, 3))
def test_identities_take_turns_in_pairs(case, number):
    sampler, labels, images, _, _, _ = case
    i, j, same = (np.concatenate(part) for part in zip(*epoch(sampler, number), strict=True))
    turns = Counter(labels[i[same == 1]].tolist())
    counts = [turns[c] for c in images if len(images[c]) > 1]
    assert not counts or max(counts) - min(counts) <= 1
    left = same == 0
    turns = Counter(labels[i[left]].tolist() + labels[j[left]].tolist())
    assert min(turns[c] for c in images) >= left.sum() // len(images)


def test_pairs_are_drawn_evenly():
    labels = np.repeat([0, 1, 2, 3], [4, 3, 2, 1])
    sampler = PairSampler(labels, batch_size=10, num_batches=24_000 // 10)
    i, j, same = (np.concatenate(part) for part in zip(*sampler, strict=True))
    seen = Counter(zip(i.tolist(), j.tolist(), strict=True))
    for a in range(10):
        for b in range(10):
            if a == b:
                expected = 0
            elif labels[a] == labels[b]:  # one of 3 identities, then one of n(n−1) ordered pairs
                n = [4, 3, 2, 1][labels[a]]
                expected = 12_000 / 3 / (n * (n - 1))
            else:  # one of 12 ordered pairs of identities, then an image of each
                expected = 12_000 / 12 / ((4 - labels[a]) * (4 - labels[b]))
            assert abs(seen[a, b] - expected) <= 5 * np.sqrt(expected), (a, b)
    assert same.sum() == 12_000


def test_positives_are_mixed_among_the_rows():
    sampler = PairSampler(np.repeat(np.arange(50), 4), batch_size=40, num_batches=200)
    where = np.mean([same for _, _, same in sampler], axis=0)
    assert np.abs(where - 0.5).max() < 0.2


@pytest.mark.parametrize(
    ("sizes", "kwargs", "message"),
    [
        ([2, 2], {"batch_size": 5}, r"batch_size must be at most the 4 images, got 5"),
        ([2, 2], {"batch_size": 0}, r"batch_size must be at least 1, got 0"),
        ([2, 2], {"positive_fraction": 1.5}, r"positive_fraction must be between 0 and 1, got 1.5"),
        ([2, 2], {"positive_fraction": float("nan")}, r"positive_fraction must be between 0 and 1"),
        ([1, 1], {}, r"positive_fraction must be 0 where no identity has 2 images, got 0.5"),
        ([4], {}, r"positive_fraction must be 1 where there is one identity only, got 0.5"),
        ([2, 2], {"num_batches": 0}, r"num_batches must be at least 1, got 0"),
    ],
)
def test_pairs_refuse_the_impossible(sizes, kwargs, message):
    with pytest.raises(ValueError, match="^PairSampler: " + message):
        PairSampler(shuffled_labels(sizes), **{"batch_size": 2, **kwargs})


# --- both -------------------------------------------------------------------------------------

BOTH = {
    "pk": lambda **k: PKSampler(
        shuffled_labels([5, 3, 2, 1, 6, 1, 4, 1]), 3, 2, extra_singletons=2, **k
    ),
    "pairs": lambda **k: PairSampler(
        shuffled_labels([5, 3, 2, 1, 6, 1, 4]), batch_size=4, num_batches=7, **k
    ),
}
both = pytest.mark.parametrize("make", BOTH.values(), ids=BOTH)


@both
def test_order_depends_on_seed_and_epoch_alone(make):
    sampler = make(seed=3)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    first, second = in_lists(sampler), in_lists(sampler)
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])
    assert first != second
    torch.manual_seed(1)
    again = make(seed=3)
    again.set_epoch(1)
    assert in_lists(again) == second
    again.set_epoch(0)
    assert in_lists(again) == first
    assert in_lists(make(seed=4)) != first


@both
def test_resumes_anywhere_in_the_same_order(make):
    reference = make()
    whole = [in_lists(reference) for _ in range(3)]
    for stop in range(len(reference) + 1):
        sampler = make()
        sampler.set_epoch(1)
        steps = iter(sampler)
        for _ in range(stop):
            next(steps)
        state = json.loads(json.dumps(sampler.state_dict()))
        resumed = make()
        resumed.load_state_dict(state)
        assert resumed.state_dict() == state
        resumed.set_epoch(1)  # as a loop over epochs would
        assert in_lists(resumed) == whole[1][stop:]
        assert in_lists(resumed) == whole[2]


@both
def test_after_a_crash_the_last_finished_epoch_suffices(make):
    sampler = make()
    list(sampler)
    state = sampler.state_dict()
    expected = in_lists(sampler)
    resumed = make()
    resumed.load_state_dict(state)
    assert resumed.epoch == 1
    assert in_lists(resumed) == expected


@both
def test_an_abandoned_iteration_starts_again(make):
    sampler = make()
    first = next(iter(sampler))
    assert np.array_equal(next(iter(sampler)), first)
    assert sampler.epoch == 0
    assert len(list(sampler)) == len(sampler)


@both
def test_state_of_another_configuration_is_refused(make):
    state = make(seed=1).state_dict()
    with pytest.raises(ValueError, match=r"load_state_dict: state must .* seed=0, got 1"):
        make().load_state_dict(state)
    with pytest.raises(ValueError, match=r"state must come from state_dict"):
        make().load_state_dict({"epoch": 3})
    with pytest.raises(ValueError, match="epoch must be at least 0"):
        make().set_epoch(-1)


def test_state_of_other_labels_or_sizes_is_refused():
    labels = shuffled_labels([4, 4, 4])
    state = PKSampler(labels, 2, 2).state_dict()
    with pytest.raises(ValueError, match="state must come from a sampler with K=3, got 2"):
        PKSampler(labels, 2, 3).load_state_dict(state)
    with pytest.raises(ValueError, match="state must come from a sampler with labels_crc32="):
        PKSampler(labels[::-1] + 1, 2, 2).load_state_dict(state)


@pytest.mark.parametrize("kind", [list, torch.as_tensor, np.uint8, np.int32])
def test_labels_of_any_integer_kind(kind):
    labels = [4, 4, 9, 9, 9, 2]
    assert list(PKSampler(kind(labels), 2, 2)) == list(PKSampler(labels, 2, 2))


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ([], ValueError, r"labels must be a vector with at least one entry, got \(0,\)"),
        (torch.ones(3, 1).long(), ValueError, r"labels must be a vector .* got \(3, 1\)"),
        ([0.0, 1.0], TypeError, r"labels must be integers, .* got float64"),
        ([True, False], TypeError, r"labels must be integers, .* got bool"),
        (["a", "b"], TypeError, r"labels must be integers, one identity an image"),
    ],
)
def test_labels_are_checked(labels, error, message):
    with pytest.raises(error, match="^PKSampler: " + message):
        PKSampler(labels, 1, 2)
    with pytest.raises(error, match="^PairSampler: " + message):
        PairSampler(labels, batch_size=1)


def test_later_changes_of_the_labels_do_no_harm():
    labels = np.array([1, 1, 2, 2])
    sampler = PKSampler(labels, 2, 2)
    state = sampler.state_dict()
    labels[:] = 0
    assert sampler.state_dict() == state


# --- through a DataLoader ---------------------------------------------------------------------


def test_pk_as_batch_sampler_of_a_dataloader():
    labels = torch.as_tensor(shuffled_labels([5, 3, 2, 1, 6, 1, 4, 1]))
    data = TensorDataset(torch.arange(len(labels)), labels)
    loader = DataLoader(data, batch_sampler=BOTH["pk"](), num_workers=0)
    expected = list(BOTH["pk"]())
    assert len(loader) == len(expected)
    got = list(loader)
    assert [index.tolist() for index, _ in got] == expected
    for index, label in got:
        assert torch.equal(label, labels[index])
        assert len(label[:6].unique()) == 3
    assert [index.tolist() for index, _ in loader] != expected  # the next epoch


def test_a_dataloader_resumes_in_mid_epoch():
    data = TensorDataset(torch.arange(23))
    whole = [index.tolist() for (index,) in DataLoader(data, batch_sampler=BOTH["pk"]())]
    sampler = BOTH["pk"]()
    steps = iter(DataLoader(data, batch_sampler=sampler, num_workers=0))
    for _ in range(2):
        next(steps)
    resumed = BOTH["pk"]()
    resumed.load_state_dict(sampler.state_dict())
    rest = DataLoader(data, batch_sampler=resumed, num_workers=0)
    assert [index.tolist() for (index,) in rest] == whole[2:]


class PairedImages(Dataset):
    """What the docstring of PairSampler shows: one item is a batch."""

    def __init__(self, images):
        self.images = images

    def __getitem__(self, pairs):
        assert isinstance(pairs, Pairs)
        return self.images[pairs.i], self.images[pairs.j], pairs.same


def test_pairs_through_a_dataloader():
    labels = shuffled_labels([5, 3, 2, 1, 6, 1, 4])
    sampler = BOTH["pairs"]()
    loader = DataLoader(PairedImages(torch.from_numpy(labels)), sampler=sampler, batch_size=None)
    assert len(loader) == len(sampler) == 7
    seen = 0
    for x1, x2, same in loader:
        assert torch.equal((x1 == x2).long(), same)
        assert same.dtype == torch.int64 and same.sum() == 2
        seen += 1
    assert seen == 7
    assert sampler.epoch == 1


# --- cost -------------------------------------------------------------------------------------


def test_a_hundred_thousand_identities_cost_less_than_a_millisecond_a_batch():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(100_000), 3))
    for sampler in (PKSampler(labels, 32, 4), PairSampler(labels, batch_size=128)):
        start = time.process_time()
        batches = sum(1 for _ in sampler)
        assert batches == len(sampler) > 1000
        assert (time.process_time() - start) / batches < 1e-3
