"""The laws of comparing embeddings: what turns, stretches or reorders them changes nothing."""

from unittest import mock

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mlserve_cli.evaluate import embeddings
from mlserve_cli.evaluate.embeddings import Embeddings

seeds = st.integers(0, 2**32 - 1)
sizes = st.tuples(st.integers(2, 12), st.integers(2, 6))


def drawn(seed, size, noise=1.0):
    """Two sets of embeddings of the same rows, the first near to the second."""
    random = np.random.default_rng(seed)
    wanted = random.standard_normal(size)
    return wanted + noise * random.standard_normal(size), wanted, random


def compared(found, wanted, *, batch=None):
    made = Embeddings()
    step = batch or len(found)
    for start in range(0, len(found), step):
        made.take(found[start : start + step], wanted[start : start + step])
    return made


@given(seeds, sizes)
def test_embeddings_are_as_near_to_themselves_as_can_be(seed, size):
    _, wanted, _ = drawn(seed, size)
    made = compared(wanted, wanted.copy())
    assert (made.cosines() == 1.0).all()
    assert made.kept().all()
    assert made.neighbours().same == len(wanted)


@given(seeds, sizes)
def test_neighbours_are_those_that_a_loop_over_all_pairs_finds(seed, size):
    found, wanted, _ = drawn(seed, size)

    def nearest(rows):
        units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return [
            max((other for other in range(len(units)) if other != row),
                key=lambda other, row=row: units[row] @ units[other])
            for row in range(len(units))
        ]  # fmt: skip

    with mock.patch.object(embeddings, "_BLOCK", 40):
        kept = compared(found, wanted).kept()
    same = [one == other for one, other in zip(nearest(found), nearest(wanted), strict=True)]
    assert kept.astype(bool).tolist() == same


@given(seeds, sizes, st.integers(1, 5))
def test_in_which_batches_rows_come_does_not_matter(seed, size, batch):
    found, wanted, _ = drawn(seed, size)
    whole, parts = compared(found, wanted), compared(found, wanted, batch=batch)
    assert (whole.cosines() == parts.cosines()).all()
    assert whole.neighbours() == parts.neighbours()


@given(seeds, sizes)
def test_lengths_do_not_matter_and_a_turn_of_all_keeps_every_neighbour(seed, size):
    found, wanted, random = drawn(seed, size, noise=0.3)
    turn, _ = np.linalg.qr(random.standard_normal((size[1], size[1])))
    stretched = found * random.uniform(0.01, 100, (len(found), 1))
    before, after = compared(found, wanted), compared(stretched @ turn, wanted @ turn)
    assert np.allclose(before.cosines(), after.cosines(), atol=1e-5)
    assert before.neighbours().same == after.neighbours().same
    assert compared(wanted @ turn, wanted).kept().all()


@given(seeds, sizes)
def test_the_order_of_the_rows_does_not_matter(seed, size):
    found, wanted, random = drawn(seed, size)
    order = random.permutation(len(found))
    assert (
        compared(found[order], wanted[order]).kept() == compared(found, wanted).kept()[order]
    ).all()


@given(seeds, sizes)
def test_rows_at_the_same_place_are_each_others_nearest_whichever_is_named(seed, size):
    _, wanted, random = drawn(seed, size)
    twice = np.concatenate([wanted, wanted, wanted])
    moved = twice + 1e-7 * random.standard_normal(twice.shape)
    assert compared(moved, twice).kept().all()


@given(seeds, sizes)
def test_the_cosine_of_other_rows_is_the_mean_over_all_pairs(seed, size):
    found, wanted, _ = drawn(seed, size)
    units = wanted / np.linalg.norm(wanted, axis=1, keepdims=True)
    pairs = [units[one] @ units[two] for one in range(len(units)) for two in range(one)]
    assert np.isclose(compared(found, wanted).neighbours().apart, np.mean(pairs), atol=1e-5)
