"""The start of a server that should not serve, or not yet."""

from __future__ import annotations

import signal
import socket
from typing import Any


def test_other_answers_than_the_golden_ones_are_refused_with_the_figures(
    start: Any, gated: Any
) -> None:
    server = start(gated, fault="wrong")

    assert server.wait() == 3
    log = server.log.read_text()
    assert "'iris' 1 does not answer as it did" in log
    assert "'scores' differs by" in log
    assert "1e-04 is allowed" in log
    assert "hint:" in log
    assert "Traceback" not in log


def test_a_port_in_use_is_said_before_anything_is_loaded(start: Any, gated: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = start(gated, port=port, fault="slow to load")
        assert server.wait() == 3

    log = server.log.read_text()
    assert f"cannot listen at 127.0.0.1:{port}: Address already in use" in log
    assert "hint: take another port" in log
    assert not (server.folder / "loading").exists()


def test_a_signal_while_loading_ends_the_process_with_0(start: Any, gated: Any) -> None:
    server = start(gated, fault="slow to load")
    server.until(lambda: (server.folder / "loading").exists())

    server.signal(signal.SIGTERM)
    server.open_the_gate()

    assert server.wait() == 0
    assert server.process.stdout.read() == ""
    assert "Traceback" not in server.log.read_text()


def test_another_cpu_than_the_one_of_the_proof_is_a_warning(start: Any, iris_package: Any) -> None:
    server = start(iris_package(instruction_sets=("avx512_imaginary",)).path)

    assert server.fetch("/readyz")[0] == 200
    assert "was proven on a CPU with avx512_imaginary" in server.log.read_text()


def test_nothing_to_serve_is_a_sentence(start: Any, tmp_path: Any) -> None:
    (tmp_path / "empty").mkdir()
    server = start(tmp_path / "empty")

    assert server.wait() == 3
    assert "there is nothing to serve" in server.log.read_text()
