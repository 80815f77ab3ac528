import pytest

from mlserve_cli.pipeline import gemm


def test_both_products_are_measured_in_turns_and_within_the_time(monkeypatch):
    import time

    start = time.perf_counter()
    speed = gemm.measure(seconds=0.05)

    assert time.perf_counter() - start < 5
    assert speed.rounds >= 3
    assert speed.fp32_gflops > 1
    assert speed.int8_gops > 1
    assert speed.ratio == pytest.approx(speed.int8_gops / speed.fp32_gflops)
