# ruff: noqa: TID253
import random
import threading
import time

import numpy as np
import pytest
import torch

from mlserve_cli.errors import DefinitionError
from mlserve_cli.training import randomness
from mlserve_cli.training.loader import Loader, digest

SEED = 4


def drawn():
    """Five batches that need all three libraries' random states."""
    for _ in range(5):
        yield (torch.rand(2) + random.random(),), torch.tensor(np.random.rand(2))


def taken(loader, number=0, **more):
    with loader.epoch(number, **more) as epoch:
        return [digest(batch) for batch in epoch]


def collect(loader, found):
    with loader.epoch(0) as epoch:
        for batch in epoch:
            found.append(digest(batch))


def test_batches_are_the_same_however_much_the_network_draws_beside_them():
    quiet = taken(Loader(drawn, seed=SEED))
    loader = Loader(drawn, seed=SEED)
    noisy = []
    with loader.epoch(0) as epoch:
        for batch in epoch:
            noisy.append(digest(batch))
            with loader.turn:
                torch.rand(7), np.random.rand(3), random.random()
    assert noisy == quiet
    assert len(set(quiet)) == 5


def test_what_the_network_draws_is_the_same_however_fast_batches_are_drawn():
    def slowly():
        for batch in drawn():
            time.sleep(0.01)
            yield batch

    found = []
    for batches in (drawn, slowly):
        randomness.seed(9)
        loader = Loader(batches, seed=SEED)
        with loader.epoch(0) as epoch:
            values = []
            for _ in epoch:
                with loader.turn:
                    values.append((torch.rand(1).item(), np.random.rand(), random.random()))
        found.append(values)
    assert found[0] == found[1]


def test_epochs_differ_and_each_can_be_entered_in_its_middle():
    loader = Loader(drawn, seed=SEED)
    first, second = taken(loader, 0), taken(loader, 1)
    assert set(first).isdisjoint(second)
    assert taken(loader, 1, skip=3) == second[3:]
    assert taken(loader, 1, skip=5) == []


def test_batches_are_drawn_on_another_thread():
    threads = []

    def where():
        threads.append(threading.current_thread())
        yield from drawn()

    taken(Loader(where, seed=SEED))
    assert threads[0] is not threading.current_thread()


def test_what_the_user_raises_is_raised_by_the_loop_after_the_batches_before_it():
    def broken():
        yield from drawn()
        raise DefinitionError("the sixth batch is missing.")

    loader, found = Loader(broken, seed=SEED), []
    with pytest.raises(DefinitionError, match="sixth"):
        collect(loader, found)
    assert found == taken(Loader(drawn, seed=SEED))


def test_the_thread_ends_with_the_epoch_also_where_nobody_takes_the_rest():
    def endless():
        while True:
            yield (torch.rand(1),), torch.zeros(1)

    with Loader(endless, seed=SEED).epoch(0) as epoch:
        next(epoch)
        assert "loader" in [thread.name for thread in threading.enumerate()]
    assert "loader" not in [thread.name for thread in threading.enumerate()]


def test_counting_leaves_the_random_states_as_they_were():
    randomness.seed(1)
    expected = (torch.rand(1).item(), np.random.rand(), random.random())
    randomness.seed(1)
    assert Loader(drawn, seed=SEED).count() == 5
    assert (torch.rand(1).item(), np.random.rand(), random.random()) == expected


def test_batches_that_no_seed_repeats_are_told_of_once():
    own = np.random.default_rng()

    def unseeded():
        for _ in range(3):
            yield (torch.tensor(own.random(4)),), torch.zeros(1)

    said = []
    loader = Loader(unseeded, seed=SEED, say=said.append)
    loader.count()
    taken(loader, expected=loader.first)
    assert len(said) == 1
    assert "other batches under the same seed" in said[0]

    said.clear()
    loader = Loader(drawn, seed=SEED, say=said.append)
    loader.count()
    taken(loader, expected=loader.first)
    assert said == []


def test_counting_that_takes_long_says_how_far_it_is_once(monkeypatch):
    monkeypatch.setattr("mlserve_cli.training.loader.LONG_COUNT_SECONDS", -1.0)
    said = []
    assert Loader(drawn, seed=SEED, say=said.append).count() == 5
    (note,) = said
    assert "1 so far" in note
    assert "never ends" in note


def test_states_survive_json():
    import json

    randomness.seed(3)
    random.gauss(0, 1)  # leaves half of a pair behind
    np.random.normal()
    states = randomness.capture()
    again = randomness.States.of(json.loads(json.dumps(states.facts())), states.cpu)
    expected = (torch.rand(3), np.random.normal(size=3), random.gauss(0, 1), random.random())
    randomness.restore(again)
    found = (torch.rand(3), np.random.normal(size=3), random.gauss(0, 1), random.random())
    assert torch.equal(found[0], expected[0])
    assert (found[1] == expected[1]).all()
    assert found[2:] == expected[2:]
