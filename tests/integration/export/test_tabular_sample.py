"""The story of samples/tabular: rows with column names, answered as the estimator would."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mlserve_cli.export.export import export
from mlserve_cli.package.definition import Definition
from mlserve_cli.package.verify import verify
from mlserve_cli.runtime.errors import InvalidRequest
from mlserve_cli.runtime.processing import build

SAMPLE = Path(__file__).parents[3] / "samples" / "tabular"


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """The definition, its package, what stands in front of it, and its engine."""
    folder = tmp_path_factory.mktemp("tabular")
    shutil.copytree(SAMPLE, folder / "tabular")
    package = export(str(folder / "tabular" / "model.py"), folder / "tumours")
    engine = package.engine()
    yield (
        Definition.load(folder / "tabular" / "model.py").module,
        package,
        build(package.manifest, package.serve),
        engine,
    )
    engine.close()


def test_the_package_verifies_and_keeps_every_decision_of_the_pipeline(story):
    _, package, _, _ = story
    facts = package.evidence("export")[0]

    assert all(check.passed for check in verify(package.path))
    assert facts["agreement"] == 1.0
    assert facts["changed"] == 0.0
    assert facts["rows"] >= 379


def test_rows_with_column_names_are_answered_like_the_estimator(story):
    module, _, processor, engine = story
    body = (SAMPLE / "tumours.json").read_bytes()
    values = np.array([list(row.values()) for row in json.loads(body)])

    answers = processor.answers(
        engine.run(processor.tensors(processor.rows(body, "application/json")))
    )

    chances = module.model().predict_proba(values)
    assert [answer["label"] for answer in answers] == ["malignant", "benign"]
    assert [answer["score"] for answer in answers] == pytest.approx(chances.max(axis=1), abs=1e-5)


def test_the_order_of_the_columns_does_not_matter(story):
    _, _, processor, _ = story
    (row, _) = json.loads((SAMPLE / "tumours.json").read_bytes())
    turned = dict(reversed(row.items()))

    found = processor.tensors([row, turned])["measures"]

    assert np.array_equal(found[0], found[1])


def test_a_missing_and_an_unknown_column_are_named_with_their_row(story):
    _, _, processor, _ = story
    good, bad = json.loads((SAMPLE / "tumours.json").read_bytes())
    del bad["mean_area"]

    with pytest.raises(InvalidRequest, match="mean_area"):
        processor.tensors([good, bad])
    with pytest.raises(InvalidRequest, match="mean_are"):
        processor.tensors([good | {"mean_are": 1.0}])


def test_the_files_of_the_sample_are_the_rows_that_were_held_out(story):
    module, *_ = story
    _, held_out, _, classes = module.splits()
    with (SAMPLE / "held-out.csv").open(newline="", encoding="utf-8") as file:
        header, *lines = csv.reader(file)

    assert header == [*module.COLUMNS, "target"]
    assert np.array_equal(np.array([line[:-1] for line in lines], dtype=float), held_out)
    assert [line[-1] for line in lines] == [module.LABELS[number] for number in classes]
    for row in json.loads((SAMPLE / "tumours.json").read_bytes()):
        assert list(row.values()) in held_out.tolist()


def test_a_smaller_boosting_learns_from_the_pipeline_and_takes_rows_as_it_does(story, tmp_path):
    from mlserve_cli.package import step
    from mlserve_cli.package.progress import Silent
    from mlserve_cli.pipeline import steps

    module, package, processor, _ = story
    small = step.run(steps.distill(None), package, tmp_path / "small", progress=Silent())
    assert small.manifest.weight_bytes < package.manifest.weight_bytes / 4
    assert small.manifest.processing == package.manifest.processing
    engine = small.engine()
    _, rows, _, classes = module.splits()
    found = engine.run({"measures": rows.astype(np.float32)})["label"]
    body = (SAMPLE / "tumours.json").read_bytes()
    answers = processor.answers(
        engine.run(processor.tensors(processor.rows(body, "application/json")))
    )
    engine.close()
    assert (found == classes).mean() > 0.92
    assert [answer["label"] for answer in answers] == ["malignant", "benign"]
