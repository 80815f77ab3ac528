"""What a plan says of an objective that was not kept."""

import math
from types import SimpleNamespace

import pytest

from mlserve_cli.pipeline.plan import Figures, _remedies, in_words
from mlserve_cli.search.serving import Wish


def missed(*, rate, highest_rate, p99_ms, throughput):
    """Remedies of one row a request within 20 ms, of a model that takes 1 ms alone."""
    seen = Figures(rate=rate, sent=rate, throughput=throughput, p99_ms=p99_ms, peak_mib=1.0)
    return _remedies(
        SimpleNamespace(
            package=SimpleNamespace(path="PKG"),
            wish=Wish(p99_ms=20.0, rate=rate),
            capacity=SimpleNamespace(lone_ms=1.0),
            observed=seen,
            predicted=seen,
            highest_rate=highest_rate,
        )
    )


def test_a_rate_that_the_model_promised_and_the_machine_missed_is_put_down_to_the_machine():
    idle, late, *_ = missed(rate=50.0, highest_rate=600.0, p99_ms=67.8, throughput=48.0)
    assert idle.startswith("an idle machine")
    assert "67.8 ms" in late


def test_machines_are_counted_by_what_one_keeps():
    first, *_ = missed(rate=1000.0, highest_rate=400.0, p99_ms=900.0, throughput=700.0)
    assert first.startswith("3 machines like this one: each keeps it up to about 340")


def test_where_no_rate_is_kept_machines_are_counted_by_what_one_answers():
    first, *_ = missed(rate=20_000.0, highest_rate=0.0, p99_ms=math.inf, throughput=1_000.0)
    assert first.startswith("more than 20 machines like this one")


@pytest.mark.parametrize(
    ("p99_ms", "text"),
    [(0.12345, "0.123 ms"), (67.83, "67.8 ms"), (14_021.0, "14,021 ms"), (math.inf, "without end")],
)
def test_a_p99_is_written_without_powers_of_ten(p99_ms, text):
    assert in_words(p99_ms) == text
