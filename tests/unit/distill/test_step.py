import pytest

from mlserve_cli.distill import DistillStep
from mlserve_cli.errors import DefinitionError, StepError
from mlserve_cli.package import step
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Silent
from mlserve_cli.prune import PruneStep
from mlserve_cli.training import source


@pytest.fixture(scope="module")
def distilled(mixed_package, tmp_path_factory):
    target = tmp_path_factory.mktemp("distilled") / "package"
    return step.run(DistillStep(), mixed_package, target, progress=Silent())


def test_the_result_is_the_student_with_its_lineage(distilled, mixed_package):
    manifest = Package.open(distilled.path).manifest
    record = manifest.lineage[-1]
    assert manifest.variant == "distilled-fp32"
    assert record.parent == mixed_package.manifest.digest
    assert (record.parameters["temperature"], record.parameters["alpha"]) == (4.0, 0.9)
    assert record.parameters["macs"] < record.parameters["macs_before"]
    found = source.load(distilled)
    assert type(found.module).__name__ == "Student"
    assert (found.entry, found.history) == ("student", [])


def test_the_same_step_gives_the_same_digest_and_another_seed_another(
    distilled, mixed_package, tmp_path
):
    again = step.run(DistillStep(), mixed_package, tmp_path / "again", progress=Silent())
    other = step.run(DistillStep(seed=1), mixed_package, tmp_path / "other", progress=Silent())
    assert again.manifest.digest == distilled.manifest.digest
    assert other.manifest.files != distilled.manifest.files


def test_the_student_of_a_trained_teacher_answers_as_it_does(mixed_package, tmp_path):
    teacher = step.run(  # fine-tuning trains it: the package itself holds a fresh network
        PruneStep(epochs=4, learning_rate=0.1), mixed_package, tmp_path / "a", progress=Silent()
    )
    student = step.run(
        DistillStep(epochs=10, learning_rate=0.3), teacher, tmp_path / "b", progress=Silent()
    )
    images, classes = source.load(mixed_package).definition.function("splits")()[1]
    answers = []
    for package in (teacher, student):
        engine = package.engine()
        (output,) = engine.run({"image": images}).values()
        engine.close()
        answers.append(output.argmax(1))
    assert (answers[0] == classes).mean() > 0.7
    assert (answers[1] == classes).mean() > 0.7
    assert (answers[0] == answers[1]).mean() > 0.7


def test_a_definition_without_student_is_refused(package_of, tmp_path):
    package = package_of(replace=[("def student():", "def pupil():")])
    with pytest.raises(StepError, match=r"no student\(\)"):
        step.run(DistillStep(), package, tmp_path / "x", progress=Silent())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("    return Student()", "    return Student(7)", r"\(16, 10\) and the student \(16, 7\)"),
        ("    return Student()", "    return Mixed(32)", "must have fewer"),
        ("    return Student()", "    return Mixed()", "must have fewer"),
    ],
)
def test_a_student_that_does_not_fit_is_refused(package_of, tmp_path, old, new, said):
    package = package_of(replace=[(old, new)])
    with pytest.raises(StepError, match=said):
        step.run(DistillStep(), package, tmp_path / "x", progress=Silent())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("new", "said"),
    [
        ("    return 5", "returns int"),
        ("    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))", "takes input"),
    ],
)
def test_a_student_with_other_inputs_or_that_is_no_module_is_refused(
    package_of, tmp_path, new, said
):
    package = package_of(replace=[("    return Student()", new)])
    with pytest.raises(DefinitionError, match=said):
        step.run(DistillStep(), package, tmp_path / "x", progress=Silent())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"temperature": 0.0}, "temperature is 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"alpha": 1.5}, "alpha is 1.5"),
        ({"alpha": -0.1}, "alpha is -0.1"),
    ],
)
def test_parameters_out_of_range_are_refused(mixed_package, wrong, said):
    with pytest.raises(StepError, match=said):
        DistillStep(**wrong).requires(mixed_package)
