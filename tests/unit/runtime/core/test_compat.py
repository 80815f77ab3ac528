from __future__ import annotations

import importlib.util
from typing import Any

import msgspec
import pytest

from mlserve_cli.runtime import compat
from mlserve_cli.runtime.settings import Settings


def settings(*names: str, **more: Any) -> Settings:
    return msgspec.convert({"compat": names, **more}, Settings)


def test_alone_the_server_listens_at_its_own_port() -> None:
    assert compat.http_ports(settings(port=9000)) == [9000]
    assert compat.grpc_ports(settings()) == []
    assert compat.grpc_ports(settings(grpc_port=9001)) == [9001]


@pytest.mark.parametrize(
    ("name", "http", "grpc"),
    [
        ("triton", [9000, 8000, 8002], [8001]),
        ("tensorflow-serving", [9000, 8501], [8500]),
        ("torchserve", [9000, 8080, 8081, 8082], []),
    ],
)
def test_the_usual_ports_come_after_its_own(
    monkeypatch: pytest.MonkeyPatch, name: str, http: list[int], grpc: list[int]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda library: library)
    assert compat.http_ports(settings(name, port=9000)) == http
    assert compat.grpc_ports(settings(name)) == grpc
    assert compat.grpc_ports(settings(name, grpc_port=9)) == [9, *grpc]


def test_no_port_is_listened_at_twice() -> None:
    both = settings("triton", "triton", "tensorflow-serving", port=8000, grpc_port=8001)
    assert compat.http_ports(both) == [8000, 8002, 8501]
    assert compat.grpc_ports(both) == [8001, 8500]


def test_without_grpcio_the_usual_grpc_ports_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda library: None)
    assert compat.grpc_ports(settings("triton")) == []
    assert compat.grpc_ports(settings("triton", grpc_port=7)) == [7, 8001]  # and fails at start


def test_some_clients_ask_for_the_name_triton() -> None:
    assert compat.server_name(settings("torchserve")) == "mlserve"
    assert compat.server_name(settings("triton")) == "triton"


def test_every_server_of_the_setting_has_its_ports() -> None:
    for name in compat.PORTS:
        assert settings(name).compat == (name,)
    with pytest.raises(msgspec.ValidationError):
        settings("bentoml")
