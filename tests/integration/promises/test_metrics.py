"""Promise 25: no wrong or colliding metric."""

from pathlib import Path

from mlserve_cli.runtime.server import Server
from mlserve_cli.runtime.settings import Settings


def test_promise_25_servers_in_one_process_count_for_themselves(tmp_path: Path) -> None:
    first, second = (Server(Settings(), tmp_path) for _ in range(2))
    first.metrics.model("digits", "1").answered("oip-rest", 200, 0.01)
    line = (
        b'mlserve_requests_total{model="digits",protocol="oip-rest",status="2xx",version="1"} 1.0'
    )
    assert line in first.metrics.render()
    assert b'model="digits"' not in second.metrics.render()


def test_promise_25_a_model_loaded_again_goes_on_counting(tmp_path: Path) -> None:
    server = Server(Settings(), tmp_path)
    server.metrics.model("digits", "1").answered("oip-rest", 200, 0.01)
    server.metrics.model("digits", "1").answered("oip-rest", 200, 0.01)
    assert b'nv_inference_request_success{model="digits",version="1"} 2.0' in (
        server.metrics.render()
    )
