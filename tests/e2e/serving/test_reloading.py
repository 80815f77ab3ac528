"""SIGHUP at a real server: every setting is taken, or named as one that waits for a restart."""

import json
import re
import signal
import time
import urllib.error
import urllib.request

import msgspec
import numpy as np
import pytest

from mlserve_cli.runtime import keys
from mlserve_cli.runtime.configuration import kind_of
from mlserve_cli.runtime.settings import Settings, load, to_toml
from mlserve_cli.runtime.sizing import Sizing
from tests.e2e.serving.chaos.models import FACTORS, tiny_rows, write_package, write_scaled

SIZED = {"tiny": Sizing(max_batch=4)}


@pytest.fixture(autouse=True)
def _file_alone(monkeypatch):
    """What stands in the environment would win over the file."""
    monkeypatch.delenv("MLSERVE_SHUTDOWN_GRACE_S")


@pytest.fixture
def folder(tmp_path):
    """A server's folder, with two versions of `tiny` and a file of keys."""
    put(tmp_path, "1")
    put(tmp_path, "2")
    made, _ = keys.make("web", ["infer"])
    keys.write(tmp_path / "keys.json", [made])
    return tmp_path


def put(folder, version):
    write_scaled(folder / "model.onnx", FACTORS.get(version, 5.0))
    sample = tiny_rows(np.arange(8))
    write_package(folder / "models", "tiny", version, folder / "model.onnx", sample)


def write(folder, **settings):
    settings = Settings(**({"port": 0, "sizing": SIZED, "shutdown_grace_s": 0.1} | settings))
    (folder / "server.toml").write_text(to_toml(settings))


def hang_up(server):
    """SIGHUP, and wait until the configuration was read again."""
    before = server.output.count(READ_AGAIN)
    server.process.send_signal(signal.SIGHUP)
    until(lambda: server.output.count(READ_AGAIN) > before)


READ_AGAIN = "the configuration was read again"


def until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.01)


def ask(server, path="/v2/models/tiny/infer", **headers):
    """(status, document) of one request."""
    item = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1.0] * 4}
    body = json.dumps({"inputs": [item]}).encode() if path.endswith("infer") else None
    request = urllib.request.Request(server.url + path, data=body, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, json.loads(reply.read() or b"null")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read() or b"null")


SPECIAL = {
    "versions": {"*": "all"},
    "sizing": {"tiny": Sizing(max_batch=2)},
    "compat": ("torchserve",),
    "keys": "keys.json",
}


def another(name):
    """A value of a setting that is allowed and not its default."""
    if name in SPECIAL:
        return SPECIAL[name]
    default = getattr(Settings(), name)
    match kind_of(Settings, name):
        case msgspec.inspect.BoolType():
            return not default
        case msgspec.inspect.LiteralType(values=values):
            return next(value for value in values if value != default)
        case msgspec.inspect.StrType():
            return "another"
        case _:
            return (default or 0) + 1


def test_every_setting_is_taken_or_named_as_one_that_waits(serve, folder):
    write(folder)
    server = serve(folder)
    assert ask(server)[0] == 200
    wanted = {name: another(name) for name in Settings.__struct_fields__}
    (folder / "server.toml").write_text(to_toml(Settings(**wanted)))

    server.process.send_signal(signal.SIGHUP)
    until(lambda: READ_AGAIN in server.output)

    for name in wanted:
        taken = re.search(rf"\b{name} is .* now; it was", server.output)
        waits = f"{name} has changed, which takes effect when the server starts again"
        assert bool(taken) != (waits in server.output), (name, server.output)
    assert ask(server)[0] == 401
    assert ask(server, "/readyz")[0] == 200


def test_the_same_file_again_says_nothing_of_any_setting(serve, folder):
    write(folder)
    server = serve(folder)
    assert ask(server)[0] == 200
    hang_up(server)
    assert "now; it was" not in server.output
    assert "has changed" not in server.output


def test_versions_and_the_watch_are_taken(serve, folder):
    write(folder, versions={"tiny": 1})  # the newest alone
    server = serve(folder)
    assert ask(server)[1]["model_version"] == "2"
    assert ask(server, "/v2/models/tiny/versions/1/infer")[0] in (400, 404)
    write(folder, versions={"tiny": "all"})
    hang_up(server)
    assert ask(server, "/v2/models/tiny/versions/1/infer")[0] == 200

    write(folder, versions={"tiny": "all"}, watch_s=0.05)
    hang_up(server)
    put(folder, "3")  # nobody tells the server
    until(lambda: ask(server)[1]["model_version"] == "3")

    write(folder, versions={"tiny": "all"}, watch_s=0)
    hang_up(server)
    put(folder, "4")
    time.sleep(0.3)  # several times as long as it looked away before
    assert ask(server)[1]["model_version"] == "3"


def test_keys_are_asked_for_from_now_on_and_no_longer(serve, folder):
    write(folder)
    server = serve(folder)
    assert ask(server)[0] == 200
    made, text = keys.make("new", ["infer"])
    keys.write(folder / "keys.json", [made])
    write(folder, keys="keys.json")
    hang_up(server)
    assert ask(server)[0] == 401
    assert ask(server, authorization=f"Bearer {text}")[0] == 200
    write(folder)  # it listens to this machine alone
    hang_up(server)
    assert ask(server)[0] == 200


def test_keys_that_cannot_be_read_let_nobody_in_by_mistake(serve, folder):
    write(folder)
    server = serve(folder)
    assert ask(server)[0] == 200
    (folder / "keys.json").write_text("{")
    write(folder, keys="keys.json")
    hang_up(server)
    assert "is no keys file" in server.output
    assert ask(server)[0] == 401


def test_the_log_changes_its_form_its_level_and_what_gets_a_line(serve, folder):
    write(folder)
    server = serve(folder)
    assert ask(server)[0] == 200
    write(folder, access_log="all", log_format="json")
    hang_up(server)
    assert ask(server, **{"X-Request-Id": "mine"})[0] == 200
    server.line(r'^\{.*"level":"info".*mine.*\}$')

    write(folder, access_log="all", log_format="text", log_level="error")
    server.process.send_signal(signal.SIGHUP)
    until(lambda: access_lines(server, "silent") == 0)
    server.process.send_signal(signal.SIGHUP)
    write(folder, access_log="all", log_level="info")
    until(lambda: (server.process.send_signal(signal.SIGHUP), access_lines(server, "loud"))[1] > 0)


def access_lines(server, identity):
    """How many lines of the log a request of that id leaves by the time of the next answer."""
    before = server.output.count(identity)
    assert ask(server, **{"X-Request-Id": identity})[0] == 200
    assert ask(server, "/livez")[0] == 200
    time.sleep(0.05)  # the log comes through a pipe of its own
    return server.output.count(identity) - before


def test_the_end_is_as_quick_as_the_file_says_now(serve, folder):
    write(folder, shutdown_grace_s=3000.0)
    server = serve(folder)
    assert ask(server)[0] == 200
    write(folder, shutdown_grace_s=0.0)
    hang_up(server)
    assert server.stop() == 0  # or it would not come within the test's patience


BROKEN = {
    "no TOML": ("port = \n", "is no TOML"),
    "a wrong type": ('max_queue_rows = "many"\n', "max_queue_rows is 'many', and it must be"),
    "an unknown name": ("prot = 1\n", "sets 'prot', which is no setting"),
    "a wrong policy": ("[versions]\ntiny = -1\n", "versions"),
    "a wrong sizing": ("[sizing.tiny]\nthreads = -1\n", "threads is -1"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_changes_nothing_and_is_told_in_a_sentence(serve, folder, case):
    write(folder, access_log="all")
    server = serve(folder)
    assert ask(server)[0] == 200
    text, said = BROKEN[case]
    good = 'port = 0\naccess_log = "off"\nkeys = "keys.json"\nlog_format = "json"\n'
    (folder / "server.toml").write_text(good + text if case != "no TOML" else text + good)
    put(folder, "3")

    server.process.send_signal(signal.SIGHUP)

    line = server.line("the configuration was not taken: .*").group(0)
    assert said in line
    assert READ_AGAIN not in server.output
    status, document = ask(server, **{"X-Request-Id": "still-here"})
    assert (status, document["model_version"]) == (200, "2")
    server.line(r"^INFO: .*still-here")
    assert server.stop() == 0
    assert "Traceback" not in server.output


def test_many_hang_ups_at_once_lose_no_request(serve, folder):
    write(folder)
    server = serve(folder)
    assert ask(server)[0] == 200
    for count in range(40):
        write(folder, max_queue_rows=1000 + count)
        server.process.send_signal(signal.SIGHUP)
        assert ask(server)[0] == 200
    write(folder, max_queue_rows=77)
    hang_up(server)
    until(lambda: "max_queue_rows is 77 now" in server.output)
    assert load(folder / "server.toml", {}).max_queue_rows == 77
    assert "Traceback" not in server.output
