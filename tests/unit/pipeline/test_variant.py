"""A variant gets its name only from the gates; a refused one is kept beside; nothing is lost."""

import shutil
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from mlserve_cli.bench.compare import Ratio
from mlserve_cli.errors import DataError, PackageError, StepError
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Silent
from mlserve_cli.package.step import Change
from mlserve_cli.pipeline.cases import Cases
from mlserve_cli.pipeline.variant import Gate, make


@dataclass
class Spoil:
    """A step that answers a share of the flowers wrongly, by exchanging two classes' weights."""

    harm: bool = False
    fails: BaseException | None = None
    name: str = "spoil"
    log: list = field(default_factory=list)

    def requires(self, parent):
        self.log.append("requires")

    def apply(self, parent, draft, progress):
        import onnx
        from onnx import numpy_helper

        self.log.append("apply")
        shutil.copyfile(parent.model, draft.serve / "model.onnx")
        if self.fails is not None:
            raise self.fails
        if self.harm:
            model = onnx.load(draft.serve / "model.onnx")
            for tensor in model.graph.initializer:
                array = numpy_helper.to_array(tensor)[..., [1, 0, 2]]
                tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))
            onnx.save(model, draft.serve / "model.onnx")
        return Change(variant="spoilt", parameters={"harm": self.harm})

    def ensures(self, parent, draft, manifest):
        self.log.append("ensures")


@pytest.fixture
def cases(iris, tmp_path):
    path = tmp_path / "flowers.npz"
    np.savez(path, x=iris[0], target=iris[1])
    return Cases(data=str(path))


@pytest.fixture
def timed(monkeypatch):
    """Answer the comparison of speed from a script: batch → ratio."""
    script = {1: 0.5, 8: 0.5}

    def compare(parent, child, *, batch_sizes, seconds, progress):
        return [
            Ratio(batch=batch, median=script[batch], low=script[batch], high=script[batch])
            for batch in batch_sizes
        ]

    monkeypatch.setattr("mlserve_cli.bench.compare.compare", compare)
    return script


def run(step, parent, target, cases, **gate):
    return make(
        lambda rows: step, parent, target, cases=cases, gate=Gate(**gate), progress=Silent()
    )


def test_a_variant_that_passes_stands_at_its_place_with_its_evidence(
    iris_package, tmp_path, cases, timed
):
    step = Spoil()

    verdict = run(step, iris_package(), tmp_path / "out", cases)

    assert step.log == ["requires", "requires", "apply", "ensures"]
    assert verdict.refusals == ()
    assert verdict.drop.value == 0
    opened = Package.open(tmp_path / "out")
    assert opened.manifest.variant == "spoilt"
    assert opened.manifest.lineage[-1].parent == verdict.parent.manifest.digest
    assert {record["kind"] for record in opened.evidence()} == {"accuracy", "gate"}


def test_a_variant_that_loses_too_much_is_kept_beside(iris_package, tmp_path, cases, timed):
    verdict = run(Spoil(harm=True), iris_package(), tmp_path / "out", cases)

    assert not (tmp_path / "out").exists()
    assert verdict.package.path == tmp_path / "out.refused"
    assert Package.open(verdict.package.path).evidence("gate")[0]["refusals"]
    assert "loses" in verdict.refusals[0]
    assert "--max-drop allows 1.00" in verdict.refusals[0]


def test_a_larger_drop_passes_where_it_was_allowed(iris_package, tmp_path, cases, timed):
    verdict = run(Spoil(harm=True), iris_package(), tmp_path / "out", cases, max_drop=100.0)

    assert verdict.refusals == ()
    assert verdict.drop.value > 50
    assert (tmp_path / "out").is_dir()


@pytest.mark.parametrize("batch", [1, 8])
def test_a_variant_that_is_slower_at_one_batch_size_is_refused(
    iris_package, tmp_path, cases, timed, batch
):
    timed[batch] = 1.5

    verdict = run(Spoil(), iris_package(), tmp_path / "out", cases)

    assert verdict.refusals[0].startswith("slower than its parent: 1.5")
    assert verdict.refusals[0].endswith(f" at batch {batch}")
    assert verdict.package.path.name == "out.refused"


def test_a_goal_that_the_step_measured_and_missed_is_refused(iris_package, tmp_path, cases, timed):
    class Short(Spoil):
        def apply(self, parent, draft, progress):
            change = super().apply(parent, draft, progress)
            said = {"kind": "target", "summary": "it falls short: 1.7 of 2", "reached": False}
            return replace(change, evidence=(said,))

    verdict = run(Short(), iris_package(), tmp_path / "out", cases)
    assert verdict.refusals == ("it falls short: 1.7 of 2",)
    assert verdict.package.path.name == "out.refused"
    (gate,) = verdict.package.evidence("gate")
    assert 0 <= gate["other_work"] <= 1


def test_a_slower_variant_passes_where_it_was_allowed(iris_package, tmp_path, cases, timed):
    timed.update({1: 3.0, 8: 3.0})

    verdict = run(Spoil(), iris_package(), tmp_path / "out", cases, allow_slower=True)

    assert verdict.refusals == ()


@pytest.mark.parametrize("error", [StepError("broken"), KeyboardInterrupt()])
def test_a_step_that_fails_or_is_interrupted_leaves_nothing(
    iris_package, tmp_path, cases, timed, error
):
    parent = iris_package()
    before = sorted(path.name for path in tmp_path.iterdir())

    with pytest.raises(type(error)):
        run(Spoil(fails=error), parent, tmp_path / "out", cases)

    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_an_interruption_while_measuring_leaves_nothing(iris_package, tmp_path, cases, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("mlserve_cli.bench.compare.compare", interrupt)
    parent = iris_package()
    before = sorted(path.name for path in tmp_path.iterdir())

    with pytest.raises(KeyboardInterrupt):
        run(Spoil(), parent, tmp_path / "out", cases)

    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_place_that_is_taken_is_refused_before_the_work(iris_package, tmp_path, cases, timed):
    parent = iris_package()
    step = Spoil()

    with pytest.raises(PackageError, match="exists already"):
        run(step, parent, parent.path, cases)

    assert step.log == []


def test_without_anything_to_judge_by_no_variant_is_made(iris_package, tmp_path, timed):
    step = Spoil()

    with pytest.raises(StepError, match="nothing to measure the accuracy") as refused:
        run(step, iris_package(), tmp_path / "out", Cases())

    assert "--data" in refused.value.hint
    assert step.log == []


def test_a_refused_variant_replaces_the_one_refused_before(iris_package, tmp_path, cases, timed):
    parent = iris_package()
    for _ in range(2):
        verdict = run(Spoil(harm=True), parent, tmp_path / "out", cases)

    assert verdict.package.path.is_dir()
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out.refused"]


def test_targets_that_are_no_classes_of_the_model_end_it_before_the_work(
    iris_package, iris, tmp_path, timed
):
    path = tmp_path / "wrong.npz"
    np.savez(path, x=iris[0], target=iris[1] + 5)
    step = Spoil()

    with pytest.raises(DataError, match="is no class of the model"):
        run(step, iris_package(), tmp_path / "out", Cases(data=str(path)))

    assert step.log == ["requires"]


def test_the_evidence_of_a_gate_with_the_labels_of_other_rows_proves_nothing(
    iris_package, iris, tmp_path, timed
):
    path = tmp_path / "shuffled.npz"
    np.savez(path, x=iris[0], target=np.random.default_rng(3).permutation(iris[1]))

    made = run(Spoil(), iris_package(), tmp_path / "out", Cases(data=str(path)))

    gate = Package.open(made.package.path).evidence("gate")[0]
    assert "always answering 'class" in gate["proof"]
    assert "proven" not in gate["proof"]
    assert gate["drop"]["doubt"] == gate["proof"]


def test_a_parent_that_a_step_cannot_take_is_told_before_its_accuracy_is_measured(
    iris_package, tmp_path, cases, timed, monkeypatch
):
    class Choosy(Spoil):
        def requires(self, parent):
            raise StepError("it takes no flowers.")

    def evaluated(*_arguments, **_options):
        raise AssertionError("the accuracy was measured first")

    monkeypatch.setattr(Cases, "evaluate", evaluated)
    with pytest.raises(StepError, match="takes no flowers"):
        run(Choosy(), iris_package(), tmp_path / "variant", cases)
    assert not (tmp_path / "variant").exists()
