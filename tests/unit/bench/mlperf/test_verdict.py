import pytest

from mlserve_cli.bench.mlperf.verdict import parse, read
from mlserve_cli.errors import MlserveError

INVALID = """\
================================================
MLPerf Results Summary
================================================
SUT name : PySUT
Scenario : Server
Mode     : PerformanceOnly
Completed samples per second    : 188.50
Result is : INVALID
  Performance constraints satisfied : Yes
  Min duration satisfied : Yes
  Early stopping satisfied: NO
Recommendations:
Early Stopping Result:
 * Run unsuccessful.
 * Processed 191 queries.
 * Would need to run at least 268 more queries,
 with the run being successful if every additional
 query were under latency.

================================================
Additional Stats
================================================
99.00 percentile latency (ns)   : 33930408

================================================
Test Parameters Used
================================================
target_latency (ns): 50000000

No warnings encountered during test.
"""


def test_an_invalid_run_is_told_with_its_reason():
    found = parse(INVALID)
    assert found.valid is False
    assert found.constraints == {
        "Performance constraints": True,
        "Min duration": True,
        "Early stopping": False,
    }
    assert found.reasons[-1] == (
        "Would need to run at least 268 more queries, with the run being successful if every "
        "additional query were under latency"
    )
    assert found.sentence.startswith("INVALID (Early stopping: no; ")


def test_figures_keep_loadgens_names_and_units():
    figures = parse(INVALID).figures
    assert figures["Completed samples per second"] == 188.5
    assert figures["99.00 percentile latency (ns)"] == 33930408
    assert figures["target_latency (ns)"] == 50000000
    assert "Scenario" not in figures


def test_a_valid_run_is_just_that():
    text = INVALID.replace("INVALID", "VALID").replace(": NO", ": Yes")
    assert parse(text).sentence == "VALID"


def test_accuracy_mode_has_no_verdict_of_loadgen():
    assert parse("\nNo warnings encountered during test.\n").valid is None


def test_a_folder_without_a_summary_is_told(tmp_path):
    with pytest.raises(MlserveError, match="no summary"):
        read(tmp_path)
