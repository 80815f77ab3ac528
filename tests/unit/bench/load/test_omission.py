"""What a closed loop is told about the stalls that it hides."""

import numpy as np
import pytest

from mlserve_cli.bench.load import omission
from mlserve_cli.bench.load.histogram import Histogram
from mlserve_cli.bench.load.run import ClosedLoop, OpenLoop
from tests.unit.bench.load.test_highest_rate import made


def test_a_stall_is_given_the_requests_that_were_not_sent_during_it():
    # 1 ms an answer for 10 s, of which the server stood still for 1: that was one answer of 9,000.
    latencies = np.append(np.full(9000, 1.0), 1000.0)
    found = omission.corrected(Histogram.of(latencies), 1.0)
    assert found.total == pytest.approx(10_000, rel=0.01)
    assert found.percentile_ms(99) == pytest.approx(900, rel=0.02)
    assert found.percentile_ms(95) == pytest.approx(500, rel=0.02)


def test_latencies_without_a_stall_stay_as_they_are():
    found = omission.corrected(Histogram.of(np.full(1000, 2.0)), 2.0)
    assert found.total == 1000


def test_the_note_names_the_stall_and_what_p99_would_have_been():
    latencies = np.append(np.full(3000, 1.0), 400.0)
    note = omission.note(made(ClosedLoop(1), latencies, 3.4))
    assert "400 ms" in note
    assert "--rate" in note
    assert "p99 is 1" in note


def test_an_open_loop_hides_nothing_and_an_even_server_has_nothing_to_hide():
    stalled = np.append(np.full(3000, 1.0), 400.0)
    assert omission.note(made(OpenLoop(rate=1000), stalled, 3.4)) is None
    assert omission.note(made(ClosedLoop(4), np.full(1000, 1.0), 1)) is None
    assert omission.note(made(ClosedLoop(4), np.zeros(0), 1)) is None
