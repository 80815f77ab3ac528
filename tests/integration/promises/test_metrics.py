"""Promises 17 and 25: percentiles by default, and no wrong or colliding metric."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from mlserve_cli.runtime.server import Server
from mlserve_cli.runtime.settings import Settings
from tests.integration.promises.gated import SERVICE, Gated, body, grpc_request

INFER = "/v2/models/iris/infer"


def test_promise_17_percentiles_are_there_by_default_for_each_model_version_and_stage(
    launch: Callable[..., Gated], iris_package: Callable[..., object], tmp_path: Path
) -> None:
    iris_package(tmp_path / "models" / "newer", version="2")  # of the same model
    server = launch(versions={"iris": "all"})
    for version, count in (("1", 3), ("2", 5)):
        for _ in range(count):
            path = f"/v2/models/iris/versions/{version}/infer"
            assert server.fetch(path, body(5.1)).status == 200

    text = server.fetch("/metrics").text
    for version, count in (("1", 3), ("2", 5)):
        for stage in ("queue", "compute", "total"):
            buckets = re.findall(
                rf'^mlserve_stage_seconds_bucket{{le="(\S+?)",model="iris",stage="{stage}",'
                rf'version="{version}"}} (\S+)$',
                text,
                re.MULTILINE,
            )
            bounds = [float(bound) for bound, _ in buckets]
            counts = [float(value) for _, value in buckets]
            assert bounds == sorted(bounds)
            assert min(bounds) <= 0.001, "a tiny model's percentiles could not be told apart"
            assert counts == sorted(counts)
            assert counts[-1] == count, (stage, version)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def test_promise_25_what_comes_by_any_port_and_protocol_is_counted_once_and_shown_at_each(
    launch: Callable[..., Gated],
) -> None:
    grpc = pytest.importorskip("grpc")
    usual = [free_port(), free_port()]
    server = launch(compat=["torchserve"], usual=usual, grpc_port=0)
    ports = [server.address[1], *usual]
    for port in ports:
        assert server.fetch(INFER, body(5.1), port=port).status == 200
    with grpc.insecure_channel(server.grpc[0]) as channel:
        for _ in range(2):
            assert channel.unary_unary(f"{SERVICE}/ModelInfer")(grpc_request(5.1), timeout=30)

    shown = [server.fetch("/metrics", port=port).text for port in ports]

    for text in shown:
        requests = re.findall(r'^mlserve_requests_total{model="iris",(.*)} (\S+)$', text, re.M)
        assert dict(requests) == {
            'protocol="oip-rest",status="2xx",version="1"': "3.0",
            'protocol="oip-grpc",status="2xx",version="1"': "2.0",
        }
        assert 'nv_inference_request_success{model="iris",version="1"} 5.0' in text
        assert 'stage="total",version="1"} 5.0' in text
        samples = re.findall(r"^([a-z_]+(?:{.*})?) \S+$", text, re.M)
        assert len(samples) == len(set(samples)), "a sample is there twice"
        names = re.findall(r"^# TYPE (\S+)", text, re.M)
        assert len(names) == len(set(names))


def test_promise_25_the_counts_of_several_processes_add_up(launch: Callable[..., Gated]) -> None:
    """Each process tells its own, so that a scraper that sums them counts nothing twice."""
    servers = [launch(), launch()]
    for server, count in zip(servers, (2, 3), strict=True):
        for _ in range(count):
            assert server.fetch(INFER, body(5.1)).status == 200
    found = [server.metric("mlserve_requests_total") for server in servers]
    assert found == [2, 3]
    memory = [server.fetch("/metrics").text for server in servers]
    started = [re.search(r"^process_start_time_seconds (\S+)$", text, re.M) for text in memory]
    assert all(started)


def test_promise_25_servers_in_one_process_count_for_themselves(tmp_path: Path) -> None:
    first, second = (Server(Settings(), tmp_path) for _ in range(2))
    first.metrics.model("digits", "1").answered("oip-rest", 200, 0.01)
    line = (
        b'mlserve_requests_total{model="digits",protocol="oip-rest",status="2xx",version="1"} 1.0'
    )
    assert line in first.metrics.render()
    assert b'model="digits"' not in second.metrics.render()


def test_promise_25_a_model_loaded_again_goes_on_counting(launch: Callable[..., Gated]) -> None:
    server = launch()
    for _ in range(2):
        assert server.fetch(INFER, body(5.1)).status == 200
        assert server.fetch("/v2/repository/models/iris/unload", b"{}").status == 200
        assert server.fetch("/v2/repository/models/iris/load", b"{}").status == 200
    assert server.fetch(INFER, body(5.1)).status == 200
    assert server.metric("nv_inference_request_success") == 3
