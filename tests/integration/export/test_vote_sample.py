"""The story of samples/vote: two models of one question, and their average as a package."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mlserve_cli.evaluate.cases import definition_of
from mlserve_cli.evaluate.evaluation import by_definition
from mlserve_cli.export.export import export
from mlserve_cli.package.package import Package
from mlserve_cli.package.verify import verify
from mlserve_cli.runtime.processing import build

SAMPLES = Path(__file__).parents[3] / "samples"


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """The three packages, made as the page says."""
    folder = tmp_path_factory.mktemp("vote")
    shutil.copytree(SAMPLES, folder / "samples")
    (folder / "packages").mkdir()
    for source, name in (
        ("tabular/model.py", "tumours"),
        ("vote/model.py", "linear"),
        ("vote/ensemble.toml", "vote"),
    ):
        export(str(folder / "samples" / source), folder / "packages" / name)
    return {
        name: Package.open(folder / "packages" / name) for name in ("tumours", "linear", "vote")
    }


def _accuracy(package):
    return by_definition(package, definition_of(package)).value


def test_the_vote_verifies_and_its_rows_are_proven_not_to_mix(story):
    assert all(check.passed for check in verify(story["vote"].path))
    assert story["vote"].manifest.batch.invariant


def test_the_figures_of_the_page_are_what_comes_out(story):
    page = (SAMPLES / "vote" / "README.md").read_text(encoding="utf-8")

    for name, package in story.items():
        assert f"{name:<8} {_accuracy(package):.2f} points" in page


def test_the_vote_answers_rows_by_their_columns_with_the_average_of_its_members(story):
    body = (SAMPLES / "tabular" / "tumours.json").read_bytes()
    vote = story["vote"]
    processor = build(vote.manifest, vote.serve)
    inputs = processor.tensors(processor.rows(body, "application/json"))
    found = {}
    for name, package in story.items():
        engine = package.engine()
        found[name] = engine.run(inputs)
        engine.close()

    members = [found[name]["probabilities"] for name in ("tumours", "linear")]
    assert np.array_equal(found["vote"]["probabilities"], (members[0] + members[1]) / np.float32(2))
    gap = np.abs(members[0] - members[1]).max(axis=1, keepdims=True)
    assert np.array_equal(found["vote"]["agreement"], 1 - gap)
    answers = processor.answers(found["vote"])
    assert [answer["label"] for answer in answers] == ["malignant", "benign"]
    assert len(json.loads(body)) == len(answers)
