"""`mlserve bench URL` before real servers: ours over each protocol, and others that misbehave."""

import csv
import json
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from mlserve_cli.bench.live import questions
from mlserve_cli.bench.live.measuring import Wish, measure
from mlserve_cli.bench.live.place import Place
from mlserve_cli.bench.live.served import Protocol
from mlserve_cli.bench.load import ClosedLoop, OpenLoop
from mlserve_cli.cli.main import app
from mlserve_cli.errors import MissingExtra, MlserveError
from mlserve_cli.runtime import golden
from tests.certificates import Authority, needs_openssl

HTTP: tuple[Protocol, ...] = ("oip-binary", "oip-json", "tensorflow", "torchserve", "predict")
SHORT = {"loads": [ClosedLoop(2)], "seconds": 0.2, "warm_up_s": 0.1}


def bench(*arguments):
    """Run the command in this process; its result."""
    return CliRunner().invoke(app, ["bench", *map(str, arguments)])


def refused(url, **fields):
    """Measure what cannot be; the sentence and the hint."""
    with pytest.raises(MlserveError) as caught:
        measure([url], Wish(**(SHORT | fields)))
    return caught.value.message, caught.value.hint or ""


@pytest.mark.parametrize("protocol", HTTP)
def test_every_protocol_is_measured_and_its_answers_read(served, protocol):
    wish = Wish(protocol=protocol, model="dbl", package=served.folder / "dbl" / "2", **SHORT)
    (subject,) = measure([served.url], wish).subjects
    (measured,) = subject.runs
    assert measured.run.answered > 20
    assert measured.run.failures == 0
    assert subject.questions.source == "golden rows of 2"
    assert subject.checked.answers >= 3
    assert subject.checked.problem is None
    if protocol in ("oip-binary", "oip-json", "tensorflow"):
        assert subject.checked.worst == pytest.approx(0, abs=1e-6)


def test_grpc_is_measured_in_both_loops(served):
    wish = Wish(
        model="dbl",
        package=served.folder / "dbl" / "2",
        loads=[ClosedLoop(2), OpenLoop(rate=100)],
        seconds=0.5,
        warm_up_s=0.1,
    )
    (subject,) = measure([served.grpc], wish).subjects
    closed, opened = (measured.run for measured in subject.runs)
    assert closed.answered > 20
    assert opened.answered == opened.sent == 50
    assert closed.failures == opened.failures == 0
    assert subject.checked.worst == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("protocol", ["oip-binary", "tensorflow"])
def test_every_datatype_comes_back_as_it_was_sent(served, protocol):
    wish = Wish(protocol=protocol, model="every", package=served.folder / "every" / "1", **SHORT)
    (subject,) = measure([served.url], wish).subjects
    assert subject.checked.worst == pytest.approx(0, abs=1e-3)
    assert subject.runs[0].run.failures == 0


@pytest.mark.parametrize("model", ["words", "light", "price"])
@pytest.mark.parametrize("protocol", ["predict", "torchserve"])
def test_what_processing_takes_is_sent_as_the_server_gives_an_example_of_it(
    served, protocol, model
):
    (subject,) = measure([served.url], Wish(protocol=protocol, model=model, **SHORT)).subjects
    assert subject.questions.source == "the server's own example"
    assert subject.runs[0].run.answered > 10
    assert subject.runs[0].run.failures == 0


def test_a_server_is_asked_which_protocol_it_speaks_and_what_it_serves(fake):
    url = f"http://127.0.0.1:{fake()}"
    (subject,) = measure([url], Wish(**SHORT)).subjects
    assert (subject.served.protocol, subject.served.model) == ("oip-json", "fake")
    assert subject.questions.synthetic
    assert not subject.served.ours
    assert subject.runs[0].server is None


def test_ours_takes_bytes_and_shows_its_own_side(served):
    (subject,) = measure([served.url], Wish(model="dbl", batch=4, **SHORT)).subjects
    server = subject.runs[0].server
    assert subject.served.protocol == "oip-binary"
    assert subject.questions.rows == 4
    assert server.mean_batch_rows >= 4
    assert sum(server.batches.values()) >= subject.runs[0].run.answered / 2
    assert {"queue", "compute", "total"} <= server.stages_ms.keys()


@pytest.mark.parametrize(
    ("path", "protocol", "version"),
    [
        ("/v2/models/dbl/infer", "oip-binary", None),
        ("/v2/models/dbl/versions/1", "oip-binary", "1"),
        ("/v1/models/dbl/versions/1:predict", "tensorflow", "1"),
        ("/predictions/dbl/1", "torchserve", "1"),
        ("/predict/dbl", "predict", None),
    ],
)
def test_a_path_names_protocol_model_and_version(served, path, protocol, version):
    (subject,) = measure([served.url + path], Wish(**SHORT)).subjects
    found = subject.served
    assert (found.protocol, found.model, found.version) == (protocol, "dbl", version)
    assert subject.runs[0].run.failures == 0


def test_rows_of_a_data_file_are_sent(served, tmp_path):
    np.savez(tmp_path / "rows.npz", x=np.arange(30, dtype=np.float32).reshape(10, 3))
    wish = Wish(model="dbl", data=str(tmp_path / "rows.npz"), batch=2, **SHORT)
    (subject,) = measure([served.url], wish).subjects
    assert not subject.questions.synthetic
    assert len({request.body for request in subject.questions.requests}) == 5
    assert subject.runs[0].run.failures == 0


def test_files_are_sent_as_they_are_to_who_takes_payloads(served, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"area": 1, "rooms": 2}\n{"area": 3, "rooms": 4}\n')
    wish = Wish(
        protocol="predict", model="price", data=str(tmp_path / "rows.jsonl"), batch=3, **SHORT
    )
    (subject,) = measure([served.url], wish).subjects
    assert subject.runs[0].run.failures == 0
    assert subject.checked.problem is None  # three rows were answered with three predictions


def test_two_servers_take_turns(served, fake):
    other = f"http://127.0.0.1:{fake(service_ms=2)}"
    result = bench(f"{served.url}/v2/models/dbl", other, "--seconds", 0.2, "--concurrency", "1,2")
    assert result.exit_code == 0, result.output
    assert "dbl over oip-binary" in result.output
    assert "fake over oip-json" in result.output


def test_another_package_than_the_one_served_is_noticed(served, monkeypatch):
    def other(folder):
        kept = golden.read(folder)
        return golden.Golden(kept.inputs, {"y": kept.outputs["y"] + 1})

    monkeypatch.setattr(questions, "golden", SimpleNamespace(read=other))
    package = served.folder / "dbl" / "2"
    report = measure([served.url], Wish(model="dbl", package=package, **SHORT))
    assert any("something else is served" in warning for warning in report.warnings)


def test_the_document_has_a_schema_and_names_what_is_doubtful(served):
    result = bench(
        *(f"{served.url}/v2/models/dbl", "--rate", "200", "--poisson", "--p99-ms", 50),
        *("--seconds", 0.5, "--json"),
    )
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert (document["schema"], document["kind"]) == (1, "live")
    (server,) = document["servers"]
    (run,) = server["runs"]
    assert (run["loop"], run["arrivals"], run["rate_per_s"]) == ("open", "poisson", 200)
    latency = run["latency"]
    assert latency["p50_ms"] <= latency["p90_ms"] <= latency["p99_ms"] <= latency["p99.9_ms"]
    assert latency["p99_low_ms"] <= latency["p99_ms"] <= latency["p99_high_ms"]
    assert run["goodput"] > 0.5
    assert run["server"]["mean_batch_rows"] >= 1
    warnings = " ".join(document["warnings"])
    assert "shares this machine's cores" in warnings
    assert "made up" in warnings
    assert "matter of chance" in warnings


def test_a_line_for_each_run_and_a_page_are_written(served, tmp_path):
    result = bench(
        *(f"{served.url}/v2/models/dbl", "--concurrency", "1,4", "--seconds", 0.3),
        *("--csv", tmp_path / "runs.csv", "--html", tmp_path / "report.html"),
    )
    assert result.exit_code == 0, result.output
    with (tmp_path / "runs.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["concurrency"] for line in lines] == ["1", "4"]
    assert all(float(line["throughput_per_s"]) > 0 for line in lines)
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 3  # the curve, the distribution, the server's batches
    assert "Latency against throughput" in page
    assert "What makes these figures doubtful" in page
    assert "http-equiv" in page
    assert "src=" not in page


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium is installed here")
def test_the_pages_plots_are_drawn_by_a_browser_without_a_network(served, tmp_path):
    from PIL import Image

    bench(
        *(f"{served.url}/v2/models/dbl", "--concurrency", "1,2,4", "--seconds", 0.2),
        *("--html", tmp_path / "report.html"),
    )
    command = [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
        "--no-first-run", "--disable-background-networking", "--disable-component-update",
        "--disable-sync", "--hide-scrollbars", "--force-device-scale-factor=1",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={tmp_path / 'profile'}", "--blink-settings=preferredColorScheme=1",
        "--window-size=800,3000", f"--screenshot={tmp_path / 'shot.png'}",
        (tmp_path / "report.html").as_uri(),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    with Image.open(tmp_path / "shot.png") as picture:
        colours = picture.convert("RGB").getcolors(1 << 24)
    from mlserve_cli.report.colours import COLOURS

    lines = [COLOURS[name][0] for name in ("blue", "orange")]
    drawn = {f"#{red:02x}{green:02x}{blue:02x}": count for count, (red, green, blue) in colours}
    assert all(drawn.get(colour.lower(), 0) > 50 for colour in lines)


@pytest.mark.clock
@pytest.mark.slow
def test_the_highest_rate_of_a_slow_server_is_found(fake):
    url = f"http://127.0.0.1:{fake(service_ms=4)}"
    result = bench(url, "--find-rate", "--p99-ms", 60, "--seconds", 3, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["servers"][0]["highest_rate"]
    # It serves 250 a second at most. The wait of an M/D/1 queue exceeds 14 services with a chance
    # of 0.05 % at 0.75 of that, and of 1 % at 0.84. Other work on this machine may take some.
    assert 80 < found["rate_per_s"] < 230
    assert found["run"]["goodput"] > 0.985
    assert {trial["verdict"] for trial in found["trials"]} >= {"met", "missed"}
    assert found["bound"].startswith("binomial")


def test_a_server_that_is_not_there_is_told(served):
    message, hint = refused("http://127.0.0.1:9")
    assert message == "no server can be reached at http://127.0.0.1:9: nothing listens there."
    assert "mlserve up" in hint
    message, _ = refused("grpc://127.0.0.1:9")
    assert "no server can be reached at grpc://127.0.0.1:9" in message
    message, _ = refused("http://no-such-host.invalid:80")
    assert "the host is not known" in message


@pytest.mark.parametrize("protocol", [*HTTP, "oip-grpc"])
def test_a_model_that_is_not_served_is_told_with_those_that_are(served, protocol):
    url = served.grpc if protocol == "oip-grpc" else served.url
    message, hint = refused(url, protocol=protocol, model="nope")
    assert "does not serve 'nope'" in message
    assert hint == "it serves dbl, every, light, price, words"


def test_a_server_of_several_models_wants_one_named(served):
    message, hint = refused(served.url)
    assert "serves 5 models" in message
    assert "--model with one of dbl, every" in hint


def test_a_server_that_answers_errors_only_is_told_before_it_is_measured(fake):
    url = f"http://127.0.0.1:{fake(status=500, body=json.dumps({'error': 'no engine'}))}"
    message, hint = refused(url)
    assert message == "the server answers 500 to POST /v2/models/fake/infer: no engine."
    assert "made up" in hint


def test_a_server_that_begins_to_fail_shows_what_came_and_exits_1(fake):
    url = f"http://127.0.0.1:{fake(every=1, then='503')}"
    result = bench(url, "--seconds", 0.3)
    assert result.exit_code == 1
    url = f"http://127.0.0.1:{fake(every=2, then='503')}"
    result = bench(f"{url}/v2/models/fake", "--seconds", 0.3, "--concurrency", 1)
    assert result.exit_code == 1  # its second answer, before anything is measured


def test_an_answer_without_outputs_is_no_answer(fake):
    message, _ = refused(f"http://127.0.0.1:{fake(body='{}')}")
    assert "an answer is no oip-json" in message


def test_what_speaks_no_protocol_is_told(fake):
    message, hint = refused(f"http://127.0.0.1:{fake(oip=False)}")
    assert "speaks no protocol that could be told" in message
    assert "--model" in hint


def test_rows_that_do_not_fit_are_told(served, tmp_path):
    np.savez(tmp_path / "rows.npz", x=np.zeros((2, 5), np.float32))
    message, _ = refused(served.url, model="dbl", data=str(tmp_path / "rows.npz"))
    assert "do not fit the model" in message
    message, hint = refused(served.url, model="words", package=served.folder / "every" / "1")
    assert "takes x" in message
    assert "--package" in hint


def test_pictures_are_one_row_a_request(served):
    message, hint = refused(served.url, protocol="predict", model="light", batch=4)
    assert "JSON only" in message
    assert hint == "leave --batch out"


def test_grpc_without_its_extra_says_what_to_install(served, monkeypatch):
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(MissingExtra) as caught:
        measure([served.grpc], Wish(model="dbl", **SHORT))
    assert caught.value.hint == "pip install 'mlserve-cli[grpc]'"


def test_grpc_at_a_port_of_http_is_told(served):
    message, hint = refused(served.url, protocol="oip-grpc", model="dbl")
    assert "a port of its own" in message
    assert "grpc://" in hint


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["http://127.0.0.1:9", "package"], "give the one or the other"),
        (["http://127.0.0.1:9", "--rate", "fast"], "'fast' is no number"),
        (["http://127.0.0.1:9", "--concurrency", "0"], "is no number"),
        (["http://127.0.0.1:9", "--find-rate"], "needs an objective"),
        (["http://127.0.0.1:9", "--poisson"], "only an open loop"),
        (["http://127.0.0.1:9", "--protocol", "smtp"], "'smtp' is none of"),
        (["http://127.0.0.1:9", "--batch", "1,8"], "rows a request"),
    ],
)
def test_a_wrong_option_is_told_before_anything_is_asked(line, said):
    result = bench(*line)
    assert result.exit_code == 2
    assert said in " ".join(result.output.replace("│", " ").split())


def test_this_machine_is_told_from_others():
    assert Place(url="", host="127.0.0.1", port=80).is_local
    assert Place(url="", host="localhost", port=80).is_local
    assert not Place(url="", host="192.0.2.1", port=80).is_local  # TEST-NET-1 of RFC 5737


@contextmanager
def secured(command):
    """Start a server; its URL, and that of its gRPC."""
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            said = ""
            while "gRPC" not in said:
                line = process.stderr.readline()
                assert line, said
                said += line
            url = re.search(r"https://[\d.]+:\d+", said)[0]
            yield url, "grpcs://" + re.search(r"gRPC: (\S+)", said)[1]
        finally:
            process.terminate()
            process.communicate(timeout=60)


@needs_openssl
def test_a_server_with_keys_and_tls_is_measured_over_http_and_grpc(served, tmp_path):
    authority = Authority.make(tmp_path / "authority")
    authority.certify(tmp_path / "tls")
    keys = tmp_path / "keys.toml"
    added = CliRunner().invoke(app, ["keys", "add", "bench", "--file", str(keys), "--json"])
    assert added.exit_code == 0, added.output
    key = json.loads(added.stdout)["key"]
    command = [
        str(Path(sys.executable).with_name("mlserve")),
        *("up", str(served.folder / "dbl" / "2")),
        *("--port", "0", "--grpc-port", "0", "--keys", str(keys)),
        *("--tls-cert", str(tmp_path / "tls" / "cert.pem")),
        *("--tls-key", str(tmp_path / "tls" / "key.pem")),
    ]
    with secured(command) as (url, grpc_url):
        ca = str(authority.path)
        (subject,) = measure([url], Wish(**SHORT), key=key, ca=ca).subjects
        assert subject.runs[0].run.answered > 10
        assert subject.runs[0].run.failures == 0
        wish = Wish(loads=[OpenLoop(rate=100)], seconds=0.3, warm_up_s=0.1)
        (subject,) = measure([url], wish, key=key, ca=ca).subjects
        assert subject.runs[0].run.answered == 30
        (subject,) = measure([grpc_url], Wish(**SHORT), key=key, ca=ca).subjects
        assert subject.runs[0].run.failures == 0
        with pytest.raises(MlserveError) as caught:
            measure([url], Wish(**SHORT), ca=ca)
        assert caught.value.hint == "--key, or MLSERVE_KEY"
        with pytest.raises(MlserveError, match="is not trusted"):
            measure([url], Wish(**SHORT), key=key)
