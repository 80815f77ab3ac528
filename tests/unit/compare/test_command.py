"""`mlserve compare` and `mlserve verify` as they are typed."""

import json

import pytest
from typer.testing import CliRunner

from mlserve_cli.cli.main import app
from mlserve_cli.errors import MlserveError


@pytest.fixture
def mlserve(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        return CliRunner().invoke(app, [str(item) for item in arguments])

    return run


def test_without_the_gate_a_worse_package_is_shown_and_the_status_is_0(
    mlserve, first, second, flowers, timed
):
    done = mlserve("compare", first.path, second.path, "--data", flowers, "--rows", "2")

    assert done.exit_code == 0, done.output
    for text in ("batch-invariant", "lineage", "export → exchange", "p = ", "(batch, 4)"):
        assert text in done.stdout
    assert "'second' was made from 'first': exchange" in done.stdout
    assert "virginica (0." in done.stdout
    assert "different decisions" in done.stdout


def test_the_gate_ends_with_status_1_the_reason_and_what_to_allow(
    mlserve, first, second, flowers, timed
):
    timed[1] = 2.0

    done = mlserve("compare", first.path, second.path, "--data", flowers, "--gate")

    assert done.exit_code == 1
    assert "error: 'second' does not pass: it loses" in done.stderr
    assert "slower than 'first': 2.00× slower" in done.stderr
    assert "hint: allow more with --max-drop and --allow-slower" in done.stderr


def test_the_gate_lets_an_equal_package_pass(mlserve, first, same, flowers, timed):
    done = mlserve("compare", first.path, same.path, "--data", flowers, "--gate")

    assert done.exit_code == 0, done.output
    assert f"next: mlserve up {same.path}" in done.stderr


def test_json_is_one_document_with_the_figures_of_both(mlserve, first, second, flowers, timed):
    done = mlserve("compare", first.path, second.path, "--data", flowers, "--json", "--rows", "1")

    found = json.loads(done.stdout)
    assert found["schema"] == 1
    assert found["accepted"] is False
    assert found["first"]["digest"] == first.manifest.digest
    assert found["second"]["lineage"][-1]["step"] == "exchange"
    assert found["decisions"]["different"] > 50
    assert len(found["decisions"]["rows"]) == 1
    assert found["drop"]["p_value"] < 1e-9


def test_a_summary_in_markdown_has_a_table_of_one_width(
    mlserve, first, second, flowers, timed, tmp_path
):
    place = tmp_path / "summary.md"
    done = mlserve(
        "compare", first.path, second.path, "--data", flowers, "--markdown", place, "--gate"
    )

    text = place.read_text()
    assert done.exit_code == 1
    assert text.startswith("### first → second\n\n**Does not pass**: it loses")
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") - line.count("\\|") for line in tables[:8]}) == 1
    assert "<details><summary>Rows with different decisions</summary>" in text
    assert "| row | target | first | second |" in text


def test_a_summary_on_stdout_stands_there_alone(mlserve, first, same, flowers, timed):
    done = mlserve("compare", first.path, same.path, "--data", flowers, "--markdown", "-")

    assert done.stdout.startswith("### first → same\n\n**Passes the gate.**")
    assert "next:" not in done.output


def test_what_a_package_says_of_itself_cannot_become_markup(
    mlserve, first, iris_package, tmp_path, flowers, timed
):
    odd = iris_package(tmp_path / "odd", licence="a|b <script>")

    done = mlserve("compare", first.path, odd.path, "--data", flowers, "--markdown", "-")

    assert "a\\|b \\<script\\>" in done.stdout


@pytest.mark.parametrize(
    "arguments", [["--json", "--markdown", "-"], ["--target", "y"], ["--batch", "0"]]
)
def test_options_that_contradict_each_other_are_a_usage_error(mlserve, first, same, arguments):
    assert mlserve("compare", first.path, same.path, *arguments).exit_code == 2


def test_a_summary_that_cannot_be_written_is_a_sentence(mlserve, first, same, flowers, timed):
    done = mlserve(
        "compare", first.path, same.path, "--data", flowers, "--markdown", "/nowhere/x.md"
    )

    assert isinstance(done.exception, MlserveError)
    assert "'/nowhere/x.md' cannot be written" in done.exception.message


def test_verify_is_quick_without_data_and_measures_with_it(mlserve, first, flowers):
    quick = json.loads(mlserve("verify", first.path, "--json").stdout)
    assert [check["name"] for check in quick["checks"]][-1] == "batch-invariance"

    assert mlserve("verify", first.path, "--data", flowers).exit_code == 1  # nothing is claimed
    assert mlserve("evaluate", first.path, "--data", flowers).exit_code == 0
    done = mlserve("verify", first.path, "--data", flowers)
    assert done.exit_code == 0, done.output
    assert "ok     accuracy: accuracy 97.33 points" in done.stdout


def test_verify_takes_the_definitions_own_rows(mlserve, first, flowers):
    (first.path / "source").mkdir()
    (first.path / "source" / "definition.py").write_text(
        f"import numpy\ndef evaluation():\n    with numpy.load({flowers!r}) as rows:\n"
        '        yield rows["x"], rows["target"]\n'
    )
    assert mlserve("evaluate", first.path).exit_code == 0

    done = mlserve("verify", first.path, "--accuracy", "--json")

    assert json.loads(done.stdout)["passed"] is True
    assert "on the same 150 rows" in done.stdout
