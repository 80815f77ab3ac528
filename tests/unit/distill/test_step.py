import numpy as np
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
    teacher = trained_teacher(mixed_package, tmp_path / "a")
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


UNLABELLED = [("        yield images[rows], classes[rows]", "        yield images[rows]")]


class Said(Silent):
    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


def trained_teacher(package, target):
    # Fine-tuning trains it, on the targets: the package holds a fresh network, which is no teacher.
    return step.run(
        PruneStep(epochs=4, learning_rate=0.1, recover="targets"),
        package,
        target,
        progress=Silent(),
    )


def accuracy(package):
    images, classes = source.load(package).definition.function("splits")()[1]
    engine = package.engine()
    (output,) = engine.run({"image": images}).values()
    engine.close()
    return (output.argmax(1) == classes).mean()


def test_rows_without_targets_are_enough_and_a_package_answers_each_of_them_once(
    package_of, mixed_package, tmp_path
):
    teacher = trained_teacher(mixed_package, tmp_path / "teacher")
    parent = package_of(replace=UNLABELLED)
    progress = Said()
    made = DistillStep(teacher=str(teacher.path), epochs=10, learning_rate=0.3)
    student = step.run(made, parent, tmp_path / "student", progress=progress)
    record = student.manifest.lineage[-1].parameters
    assert record["alpha"] == 1
    assert record["teacher"] == teacher.manifest.digest
    assert accuracy(student) > 0.7
    # The two rows of the example are asked beside the 1,400 of each of ten epochs.
    assert any("of 14,016 were answered before" in line for line in progress.lines)
    assert any("answered 1,4" in line for line in progress.lines)
    again = step.run(made, parent, tmp_path / "again", progress=progress)
    assert "the teacher answered 0 rows" in progress.lines[-1]
    assert again.manifest.files["serve/model.onnx"] == student.manifest.files["serve/model.onnx"]


def test_targets_that_are_missing_are_told_before_anything_is_trained(package_of, tmp_path):
    package = package_of(replace=UNLABELLED)
    with pytest.raises(StepError, match=r"without targets, and alpha is 0\.5") as caught:
        step.run(DistillStep(alpha=0.5), package, tmp_path / "x", progress=Silent())
    assert "--alpha 1" in caught.value.hint
    assert not list(tmp_path.iterdir())


def test_a_file_of_rows_takes_the_place_of_training(mixed_package, tmp_path):
    images, classes = source.load(mixed_package).definition.function("splits")()[0]
    np.savez(tmp_path / "rows.npz", image=images[:300])
    np.savez(tmp_path / "labelled.npz", image=images[:300], label=classes[:300])
    for name, alpha in (("rows", 1), ("labelled", 0.9)):
        made = DistillStep(train_data=str(tmp_path / f"{name}.npz"), epochs=1)
        package = step.run(made, mixed_package, tmp_path / name, progress=Silent())
        assert package.manifest.lineage[-1].parameters["alpha"] == alpha


def test_the_network_of_another_package_learns(mixed_package, tmp_path):
    teacher = trained_teacher(mixed_package, tmp_path / "teacher")
    pruned = step.run(
        PruneStep(ratio=0.7, epochs=1), mixed_package, tmp_path / "pruned", progress=Silent()
    )
    before = accuracy(pruned)
    student = step.run(
        DistillStep(teacher=str(teacher.path), student=pruned.path, epochs=8, learning_rate=0.1),
        mixed_package,
        tmp_path / "student",
        progress=Silent(),
    )
    found = source.load(student)
    assert found.history == source.load(pruned).history  # as small as it was, and trainable
    assert student.manifest.lineage[-1].parameters["student"] == pruned.manifest.digest
    assert accuracy(student) > before + 0.2


def test_layers_teach_layers_and_nothing_of_it_stays(mixed_package, tmp_path):
    progress = Said()
    made = DistillStep(hints="auto", hints_weight=0.5, attention=0.5, epochs=1)
    student = step.run(made, mixed_package, tmp_path / "student", progress=progress)
    assert any("hints from" in line and "attention from" in line for line in progress.lines)
    record = student.manifest.lineage[-1].parameters
    assert (record["hints"], record["hints_weight"], record["attention"]) == ("auto", 0.5, 0.5)
    assert set(source.load(student).module.state_dict()) == {
        "conv.weight",
        "conv.bias",
        "head.weight",
        "head.bias",
    }


def test_an_engine_shows_no_layers(mixed_package, tmp_path):
    made = DistillStep(hints="auto", teacher=str(mixed_package.path))
    with pytest.raises(StepError, match="an engine shows none"):
        step.run(made, mixed_package, tmp_path / "x", progress=Silent())


def test_a_teacher_that_answers_in_another_shape_is_refused(mixed_package, package_of, tmp_path):
    other = package_of(replace=[("2 * width + 8, 10)", "2 * width + 8, 7)")])
    with pytest.raises(StepError, match=r"\(16, 7\) and the student \(16, 10\)"):
        step.run(
            DistillStep(teacher=str(other.path)), mixed_package, tmp_path / "x", progress=Silent()
        )
    assert not list(tmp_path.iterdir())


def test_a_loss_that_diverges_ends_the_training_and_leaves_nothing(mixed_package, tmp_path):
    with pytest.raises(StepError, match="diverged"):
        step.run(
            DistillStep(learning_rate=1e4, epochs=1),
            mixed_package,
            tmp_path / "x",
            progress=Silent(),
        )
    assert not list(tmp_path.iterdir())


def test_without_a_share_of_the_teacher_only_the_targets_are_learned(mixed_package, tmp_path):
    progress = Said()
    made = DistillStep(alpha=0.0, teacher=str(mixed_package.path), epochs=1)
    step.run(made, mixed_package, tmp_path / "x", progress=progress)
    assert not any("teacher answered" in line for line in progress.lines)


def test_two_students_at_once_are_refused(mixed_package):
    with pytest.raises(StepError, match="were both named"):
        DistillStep(student=mixed_package.path, layers=1).requires(mixed_package)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"compare": "classes?"}, "no way to compare"),
        ({"attention": -1.0}, "attention is -1"),
        ({"hints_weight": float("nan")}, "hints is nan"),
        ({"augment": -1}, "made up"),
    ],
)
def test_other_parameters_out_of_range_are_refused(mixed_package, wrong, said):
    with pytest.raises(StepError, match=said):
        DistillStep(**wrong).requires(mixed_package)


def test_an_onnx_file_teaches_a_torch_network_through_its_engine(
    mixed_package, tmp_path_factory, tmp_path
):
    import shutil

    from mlserve_cli.export.export import export

    teacher = trained_teacher(mixed_package, tmp_path / "teacher")
    folder = tmp_path_factory.mktemp("foreign")
    text = (mixed_package.source / "definition.py").read_text()
    text = text.replace("    torch.manual_seed(0)\n    return Mixed()", "    return 'model.onnx'")
    assert "model.onnx" in text
    (folder / "model.py").write_text(text + "\n\nFILES = ['model.onnx']\n")
    shutil.copyfile(teacher.serve / "model.onnx", folder / "model.onnx")
    foreign = export(str(folder / "model.py"), tmp_path / "foreign", progress=Silent())
    student = step.run(
        DistillStep(epochs=8, learning_rate=0.3), foreign, tmp_path / "student", progress=Silent()
    )
    record = student.manifest.lineage[-1].parameters
    assert record["parameters"] < 3000
    assert "parameters_before" not in record
    assert accuracy(student) > 0.7
    # And it goes on from what it is now, a torch module.
    step.run(PruneStep(ratio=0.5, epochs=1), student, tmp_path / "pruned", progress=Silent())


@pytest.mark.parametrize("way", ["logits", "layers", "engine"])
def test_a_distillation_that_was_killed_goes_on_and_ends_with_the_same_weights(
    mixed_package, tmp_path, way
):
    from mlserve_cli.training.checkpoint import Checkpoints

    class Killed(Silent):
        steps = 0

        def advance(self, steps=1, note=""):
            self.steps += steps
            if self.steps == 27:
                raise KeyboardInterrupt

    asked = {
        "logits": {},
        "layers": {"hints": "auto", "attention": 1.0},
        "engine": {"teacher": str(mixed_package.path)},
    }[way]
    whole = step.run(DistillStep(**asked), mixed_package, tmp_path / "whole", progress=Silent())
    folder = tmp_path / "kept"
    with pytest.raises(KeyboardInterrupt):
        step.run(
            DistillStep(checkpoints=Checkpoints(folder=folder, steps=10), **asked),
            mixed_package,
            tmp_path / "again",
            progress=Killed(),
        )
    progress = Said()
    again = step.run(
        DistillStep(checkpoints=Checkpoints(folder=folder, resume=True), **asked),
        mixed_package,
        tmp_path / "again",
        progress=progress,
    )
    assert any("goes on after step 20" in line for line in progress.lines)
    assert again.manifest.digest == whole.manifest.digest
    assert again.evidence("training")
