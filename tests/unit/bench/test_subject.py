import numpy as np
import pytest

from mlserve_cli.bench.subject import FEEDS, labels, loaded, timed
from mlserve_cli.errors import EngineError
from mlserve_cli.runtime.engines import EngineOptions
from mlserve_cli.runtime.manifest import BatchProof
from mlserve_cli.runtime.tensors import TensorSpec

US = 1_000


def _steady(rows):
    return 10 * US


def _open(workshop, clock, *packages):
    return loaded(list(packages), options=EngineOptions(threads=1), clock=clock)


def test_golden_rows_are_tiled_and_different_ones_take_turns(workshop, clock):
    with _open(workshop, clock, workshop("a", _steady)) as (subject,):
        feeds = [[run["x"][:, 0].tolist() for run in feed] for feed in subject.feeds(7)]
    assert feeds[0] == [[0, 1, 2, 3, 4, 0, 1]]
    assert [feed[0][0] for feed in feeds] == [0, 1, 2, 3, 4]
    assert len(feeds) <= FEEDS


def test_a_package_of_single_rows_is_run_row_by_row(workshop, clock):
    package = workshop("a", _steady, batch=BatchProof(invariant=False, reason="shares a scale"))
    with _open(workshop, clock, package) as (subject,):
        feed = subject.feeds(3)[0]
        assert subject.row_by_row
    assert [run["x"].tolist() for run in feed] == [[[0.0]], [[1.0]], [[2.0]]]


def test_a_fixed_batch_is_run_whole_for_the_last_rows_too(workshop, clock):
    package = workshop(
        "a",
        _steady,
        inputs=(TensorSpec("x", "FP32", (4, 1)),),
        batch=BatchProof(invariant=False),
    )
    with _open(workshop, clock, package) as (subject,):
        assert [len(run["x"]) for run in subject.feeds(6)[0]] == [4, 4]
        assert not subject.row_by_row


def test_a_visit_lasts_its_time_and_its_first_run_is_not_counted(workshop, clock, journal):
    with _open(workshop, clock, workshop("a", _steady)) as (subject,):
        found = timed(subject, 1, subject.feeds(1), seconds=100e-6, at_least=2, clock=clock)
    assert found.tolist() == [10 * US] * 10
    assert len(journal) == 11


def test_a_slow_model_is_run_at_least_so_often(workshop, clock):
    with _open(workshop, clock, workshop("a", _steady)) as (subject,):
        found = timed(subject, 1, subject.feeds(1), seconds=1e-6, at_least=3, clock=clock)
    assert len(found) == 3


def test_a_run_that_fails_names_the_package_and_the_batch(workshop, clock):
    def cost(rows):
        raise RuntimeError("out of memory\nat some node")

    with (
        _open(workshop, clock, workshop("a", cost)) as (subject,),
        pytest.raises(EngineError, match=r"^'a' fails at batch 8: out of memory.$"),
    ):
        timed(subject, 8, subject.feeds(8), seconds=1e-6, at_least=1, clock=clock)


def test_every_engine_is_closed_also_when_one_cannot_be_loaded(workshop, clock, monkeypatch):
    first, second = workshop("a", _steady), workshop("b", _steady)

    import mlserve_cli.bench.subject as module

    load = module.engines.load

    def failing(engine, model, options):
        if model.parent.parent.name == "b":
            raise EngineError("no such file")
        return load(engine, model, options)

    monkeypatch.setattr("mlserve_cli.bench.subject.engines.load", failing)
    with pytest.raises(EngineError), _open(workshop, clock, first, second):
        pass
    assert workshop.engines["a"].closed


def test_packages_with_the_same_inputs_are_asked_the_same(workshop, clock):
    same = workshop("b", _steady, folder="other")
    different = workshop(
        "other", _steady, folder=".", inputs=(TensorSpec("x", "FP32", ("batch", "n")),)
    )
    with _open(workshop, clock, workshop("a", _steady), same, different) as subjects:
        found = [float(np.min(subject.real["x"])) for subject in subjects]
    assert found == [0.0, 0.0, 100.0]


def test_the_time_to_load_is_measured(workshop, clock):
    with _open(workshop, clock, workshop("a", _steady, load_ns=3_000_000)) as (subject,):
        assert subject.load_ms == 3.0


def test_two_folders_of_one_name_are_told_apart_by_their_paths(workshop):
    packages = [workshop("a", _steady), workshop("a", _steady, folder="b"), workshop("c", _steady)]
    assert labels(packages) == ["models/a", "b/a", "c"]


def test_a_package_beside_itself_is_numbered(workshop):
    package = workshop("a", _steady)
    assert labels([package, package]) == ["a", "a (2)"]
