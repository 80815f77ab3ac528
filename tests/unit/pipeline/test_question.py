"""What earlier trials are answers to: other rows are another question."""

from types import SimpleNamespace

import pytest

from mlserve_cli.pipeline.cases import Cases
from mlserve_cli.pipeline.optimize import Goal, question

MACHINE = SimpleNamespace(cpu_name="a CPU", isa=("avx2",), physical_cores=2)
PARENT = SimpleNamespace(manifest=SimpleNamespace(digest="sha256:0"))


def asked(cases):
    return question(PARENT, cases, Goal(), MACHINE)


@pytest.mark.parametrize("named", ["data", "calibration_data"])
@pytest.mark.parametrize("spec", ["rows.csv", "photos", "rows.py:test"])
def test_rows_that_were_changed_are_another_question(tmp_path, named, spec):
    file = tmp_path / {"photos": "photos/cat/1.png"}.get(spec, spec.partition(":")[0])
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("before")
    cases = Cases(**{named: str(tmp_path / spec)})
    before = asked(cases)
    assert asked(cases) == before
    file.write_text("after it")
    assert asked(cases) != before


def test_without_named_rows_no_file_counts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = asked(Cases())
    (tmp_path / "letter.txt").write_text("dear")
    assert asked(Cases()) == before
