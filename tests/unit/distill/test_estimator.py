"""Large forests into small ones, on real tables; nothing of torch is in the way."""

import numpy as np
import pytest

from mlserve_cli.distill import estimator
from mlserve_cli.distill.made_up import made_up
from mlserve_cli.errors import DefinitionError, StepError
from mlserve_cli.export.export import export
from mlserve_cli.package import step
from mlserve_cli.package.progress import Silent
from mlserve_cli.pipeline import steps

FOREST = """
import numpy as np
from sklearn.datasets import load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split

METRIC = {"name": "accuracy", "higher_is_better": True, "unit": "points"}


def splits():
    rows, classes = load_wine(return_X_y=True)
    return train_test_split(rows.astype(np.float32), classes, test_size=1 / 3, random_state=0)


def model():
    rows, _, classes, _ = splits()
    return RandomForestClassifier(60, random_state=0).fit(rows, classes)


def student():
    return RandomForestClassifier(6, max_depth=4)


def sample():
    return splits()[0][:32]


def training():
    rows, _, classes, _ = splits()
    yield rows[:60], classes[:60]
    yield rows[60:], classes[60:]


def evaluation():
    _, rows, _, classes = splits()
    yield rows, classes
"""
UNLABELLED = [
    ("yield rows[:60], classes[:60]", "yield rows[:60]"),
    ("yield rows[60:], classes[60:]", "yield rows[60:]"),
]
WORDS = [
    (
        "    rows, classes = load_wine(return_X_y=True)\n",
        "    rows, classes = load_wine(return_X_y=True)\n"
        "    classes = np.array(['red', 'rosé', 'white'])[classes]\n",
    )
]
NUMBERS = [
    ("load_wine", "load_diabetes"),
    ("RandomForestClassifier", "RandomForestRegressor"),
    (
        '{"name": "accuracy", "higher_is_better": True, "unit": "points"}',
        '{"name": "error", "higher_is_better": False, "unit": "points"}',
    ),
]


@pytest.fixture(scope="module")
def forest(tmp_path_factory):
    made = {}

    def make(*, replace=()):
        key = tuple(replace)
        if key not in made:
            folder = tmp_path_factory.mktemp("forest")
            text = FOREST
            for old, new in replace:
                assert old in text
                text = text.replace(old, new)
            (folder / "model.py").write_text(text)
            made[key] = export(str(folder / "model.py"), folder / "package", progress=Silent())
        return made[key]

    return make


def distilled(package, target, **parameters):
    return step.run(steps.distill(None, **parameters), package, target, progress=Silent())


def answers(package, rows):
    engine = package.engine()
    found = engine.run({engine.inputs[0].name: rows})
    engine.close()
    return found


def held_out(package):
    from mlserve_cli.package.definition import Definition

    _, rows, _, wanted = Definition.load(package.source / "definition.py").function("splits")()
    return rows, wanted


@pytest.mark.parametrize(
    "changes", [[], UNLABELLED, WORDS], ids=["labelled", "unlabelled", "words"]
)
def test_a_small_forest_decides_as_the_large_one_does(forest, tmp_path, changes):
    teacher = forest(replace=changes)
    student = distilled(teacher, tmp_path / "student")
    record = student.manifest.lineage[-1].parameters
    assert record["fitted_to"] == "shares"
    assert record["alpha"] == (1 if changes is UNLABELLED else 0.9)
    assert (record["rows"], record["made_up_rows"]) == (118, 0)
    assert student.manifest.variant == "distilled-fp32"
    assert student.manifest.weight_bytes < teacher.manifest.weight_bytes / 5
    assert student.manifest.inputs == teacher.manifest.inputs
    assert student.manifest.outputs == teacher.manifest.outputs
    rows, wanted = held_out(student)
    ours, theirs = answers(student, rows), answers(teacher, rows)
    label = np.array([each.decode() if isinstance(each, bytes) else each for each in ours["label"]])
    assert (label == wanted).mean() > 0.9
    assert (ours["label"] == theirs["label"]).mean() > 0.9


def test_the_same_seed_gives_the_same_forest(forest, tmp_path):
    made = [
        distilled(forest(), tmp_path / str(index), seed=seed)
        for index, seed in enumerate((1, 1, 2))
    ]
    files = [each.manifest.files["serve/model.onnx"] for each in made]
    assert files[0] == files[1] != files[2]


def test_a_forest_of_numbers_is_fitted_to_the_numbers_of_the_large_one(forest, tmp_path):
    teacher = forest(replace=NUMBERS)
    student = distilled(teacher, tmp_path / "student")
    assert student.manifest.lineage[-1].parameters["fitted_to"] == "values"
    rows, _ = held_out(student)
    ours, theirs = (answers(each, rows)["prediction"].ravel() for each in (student, teacher))
    assert np.corrcoef(ours, theirs)[0, 1] > 0.85


def test_rows_are_made_up_near_real_ones(forest, tmp_path):
    student = distilled(forest(), tmp_path / "student", augment=3)
    record = student.manifest.lineage[-1].parameters
    assert (record["rows"], record["made_up_rows"]) == (118, 354)
    rows, wanted = held_out(student)
    assert (answers(student, rows)["label"] == wanted).mean() > 0.9


def test_made_up_rows_and_real_ones_together_stay_within_the_limit(forest, tmp_path, monkeypatch):
    monkeypatch.setattr(estimator, "LIMIT_ROWS", 300)
    student = distilled(forest(), tmp_path / "student", augment=3)
    record = student.manifest.lineage[-1].parameters
    assert (record["rows"], record["made_up_rows"]) == (118, 118)


def test_made_up_values_lie_between_or_near_those_of_two_rows():
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(200, 5)) * [1, 10, 100, 1, 1] + [0, 5, 0, 0, 0]
    rows[:, 4] = np.round(rows[:, 4])
    made = made_up(rows, seed=0)
    assert made.shape == rows.shape
    same = made == rows
    assert 0.35 < same.mean() < 0.75
    assert set(made[:, 4]) <= set(rows[:, 4])  # whole numbers stay some that were measured
    assert np.allclose(made.std(0), rows.std(0), rtol=0.5)
    assert np.array_equal(made, made_up(rows, seed=0))


def test_an_estimator_that_takes_no_weights_learns_the_decisions(forest, tmp_path):
    small = [
        ("RandomForestClassifier(6, max_depth=4)", "LinearDiscriminantAnalysis()"),
        (
            "import RandomForestClassifier\n",
            "import RandomForestClassifier\n"
            "from sklearn.discriminant_analysis import LinearDiscriminantAnalysis\n",
        ),
    ]
    student = distilled(forest(replace=small), tmp_path / "student")
    assert student.manifest.lineage[-1].parameters["fitted_to"] == "classes"


@pytest.mark.parametrize(
    ("student", "error", "said"),
    [
        ("5", DefinitionError, "returns int; of a model that is an estimator"),
        ("RandomForestClassifier(80, random_state=1)", StepError, "must take fewer"),
        (
            "__import__('sklearn.ensemble').ensemble.RandomForestRegressor(3)",
            DefinitionError,
            "is no classifier, and the model is a classifier",
        ),
    ],
)
def test_a_student_that_does_not_fit_is_refused(forest, tmp_path, student, error, said):
    package = forest(replace=[("RandomForestClassifier(6, max_depth=4)", student)])
    with pytest.raises(error, match=said):
        distilled(package, tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_what_is_missing_is_told(forest, tmp_path):
    with pytest.raises(StepError, match=r"no student\(\)"):
        distilled(forest(replace=[("def student", "def pupil")]), tmp_path / "x")
    nothing = forest(replace=[("def training", "def trained")])
    with pytest.raises(StepError, match=r"no training\(\) and no calibration\(\)"):
        distilled(nothing, tmp_path / "x")
    with pytest.raises(StepError, match=r"without targets, and alpha is 0\.5"):
        distilled(forest(replace=UNLABELLED), tmp_path / "x", alpha=0.5)
    one = forest(
        replace=[
            ("yield rows[:60], classes[:60]", "yield rows[model().predict_proba(rows)[:, 1] == 1]"),
            ("    yield rows[60:], classes[60:]\n", ""),
        ]
    )
    with pytest.raises(StepError, match="likely in no row"):
        distilled(one, tmp_path / "x")


def test_a_file_of_rows_without_training_is_enough(forest, tmp_path):
    package = forest(replace=[("def training", "def trained")])
    rows, _ = held_out(package)
    np.savez(tmp_path / "rows.npz", **{package.manifest.inputs[0].name: rows})
    student = distilled(package, tmp_path / "student", train_data=str(tmp_path / "rows.npz"))
    assert student.manifest.lineage[-1].parameters["rows"] == len(rows)
