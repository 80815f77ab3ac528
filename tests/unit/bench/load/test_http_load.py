import socket

import pytest

from mlserve_cli.bench.load import Aim, Generator
from mlserve_cli.bench.load.address import listening as chosen
from mlserve_cli.errors import MlserveError


def test_of_several_addresses_the_one_is_taken_where_somebody_listens(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))  # and does not listen
        kinds = (socket.AF_INET, socket.SOCK_STREAM, 6)
        both = [(*kinds, "", one.getsockname()) for one in (deaf, listening)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
        assert chosen("localhost", 80)[1] == listening.getsockname()


def test_where_nobody_listens_the_first_is_taken(monkeypatch):
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        one = (socket.AF_INET, socket.SOCK_STREAM, 6, "", deaf.getsockname())
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [one, one])
        assert chosen("localhost", 80)[1] == deaf.getsockname()


def test_a_generator_that_cannot_begin_leaves_no_process(monkeypatch):
    generator = Generator(Aim(host="127.0.0.1", port=1, messages=[b"x"]), processes=2)
    second = generator._processes[1]

    def refuse():
        raise MlserveError("no room.")

    monkeypatch.setattr(second, "expect", refuse)
    with pytest.raises(MlserveError, match="no room"):
        generator.__enter__()
    for worker in generator._processes:
        assert worker._process.returncode is not None
