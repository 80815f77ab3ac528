"""TLS as clients meet it: real servers, certificates of an authority that only they trust."""

import asyncio
import json
import re
import signal
import socket
import ssl
import subprocess

import httpx2
import numpy as np
import pytest

from mlserve_cli.runtime import keys
from tests.certificates import Authority, needs_openssl
from tests.e2e.serving.chaos.models import write_package, write_scaled

pytestmark = needs_openssl

WIDE = 1 << 20  # numbers of a row: 4 MiB

TOML = """
port = 0
grpc_port = 0
tls_cert = "cert.pem"
tls_key = "key.pem"
shutdown_grace_s = 0.1
max_body_mb = 32
[sizing.double]
max_batch = 4
[sizing.wide]
max_batch = 4
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """`double` of 4 numbers, `wide` of a million: both give back twice what they get."""
    root = tmp_path_factory.mktemp("tls")
    for name, width in (("double", 4), ("wide", WIDE)):
        write_scaled(root / "model.onnx", 2.0, width)
        sample = {"x": np.linspace(-1, 1, 4 * width, dtype=np.float32).reshape(4, width)}
        write_package(root / "models", name, "1", root / "model.onnx", sample)
    return root / "models"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority.make(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def folder(authority, packages, tmp_path):
    """A server's folder with a certificate in it."""
    authority.certify(tmp_path)
    (tmp_path / "server.toml").write_text(f'models = "{packages}"\n{TOML}')
    return tmp_path


@pytest.fixture
def secure(serve, folder):
    """Start the server of that folder; `https` and `grpc` are its addresses."""

    def run(*ports):
        server = serve(folder, *ports)
        found = server.line(r"(https://127\.0\.0\.1:\d+) gRPC: (.*)")
        server.https, server.grpc = found.group(1), found.group(2).split()
        return server

    return run


def trusting(authority):
    return ssl.create_default_context(cafile=authority.path)


def message(rows):
    item = {"name": "x", "shape": list(rows.shape), "datatype": "FP32"}
    return json.dumps({"inputs": [item | {"data": rows.ravel().tolist()}]}).encode()


def binary(rows):
    """(headers, body) of a request whose tensor and answer are bytes."""
    raw = rows.tobytes()
    item = {"name": "x", "shape": list(rows.shape), "datatype": "FP32"}
    item["parameters"] = {"binary_data_size": len(raw)}
    head = json.dumps({"inputs": [item], "parameters": {"binary_data_output": True}}).encode()
    return {"Inference-Header-Content-Length": str(len(head))}, head + raw


def answered(headers, body):
    start = int(headers["inference-header-content-length"])
    return np.frombuffer(body[start:], np.float32)


ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)


def doubled_over_grpc(address, authority, **options):
    """What a real client gets that verifies the certificate."""
    client = pytest.importorskip("tritonclient.grpc")
    with client.InferenceServerClient(
        address, ssl=True, root_certificates=str(authority.path)
    ) as made:
        item = client.InferInput("x", ROWS.shape, "FP32").set_data_from_numpy(ROWS)
        return made.infer("double", [item], **options).as_numpy("y")


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_clients_that_verify_are_answered_over_https_and_grpc(secure, authority, name):
    server = secure()
    url = server.https.replace("127.0.0.1", name)
    with httpx2.Client(verify=trusting(authority)) as client:
        reply = client.post(f"{url}/v2/models/double/infer", content=message(ROWS))
    assert reply.json()["outputs"][0]["data"] == (2 * ROWS).ravel().tolist()
    address = server.grpc[0].replace("127.0.0.1", name)
    assert (doubled_over_grpc(address, authority) == 2 * ROWS).all()


def test_clients_that_trust_another_authority_are_not_fooled(secure, tmp_path):
    grpc = pytest.importorskip("grpc")
    other = Authority.make(tmp_path / "other")
    server = secure()
    with (
        httpx2.Client(verify=trusting(other)) as client,
        pytest.raises(httpx2.ConnectError, match="certificate verify failed"),
    ):
        client.get(f"{server.https}/readyz")
    credentials = grpc.ssl_channel_credentials(other.path.read_bytes())
    with grpc.secure_channel(server.grpc[0], credentials) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"", timeout=30)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_nothing_older_than_tls_1_2_is_spoken(secure):
    server = secure()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    address = ("127.0.0.1", int(server.https.rpartition(":")[2]))
    with (
        socket.create_connection(address) as plain,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        context.wrap_socket(plain)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_the_ports_of_another_server_speak_tls_as_well(secure, folder, authority):
    pytest.importorskip("grpc")
    text = (folder / "server.toml").read_text()
    (folder / "server.toml").write_text('compat = ["tensorflow-serving"]\n' + text)
    http, rpc = free_port(), free_port()
    server = secure(http, rpc)
    assert server.grpc[1:] == [f"127.0.0.1:{rpc}"]
    with httpx2.Client(verify=trusting(authority)) as client:
        for port in (http, int(server.https.rpartition(":")[2])):
            reply = client.post(
                f"https://localhost:{port}/v1/models/double:predict",
                json={"instances": ROWS.tolist()},
            )
            assert reply.json() == {"predictions": (2 * ROWS).tolist()}
    for address in server.grpc:
        assert (doubled_over_grpc(address, authority) == 2 * ROWS).all()


def test_plain_http_at_a_tls_port_is_hung_up_on_and_harms_nobody(secure, authority):
    server = secure()
    address = ("127.0.0.1", int(server.https.rpartition(":")[2]))
    for noise in (b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\x16\x03\x01\xff\xff", b""):
        with socket.create_connection(address, timeout=30) as plain:
            plain.sendall(noise)
            plain.shutdown(socket.SHUT_WR)
            assert b"HTTP/1.1 200" not in plain.recv(1 << 16)
    with httpx2.Client(verify=trusting(authority)) as client:
        assert client.get(f"{server.https}/readyz").status_code == 200
    assert server.stop() == 0
    assert "Traceback" not in server.output
    assert "rror" not in server.output


def test_large_binary_bodies_come_through_whole(secure, authority):
    """Sizes on both sides of every way that a body can take, over one connection."""
    server = secure()
    rng = np.random.default_rng(3)
    with httpx2.Client(verify=trusting(authority)) as client:
        for name, count, width in (
            ("wide", 1, WIDE), ("double", 1, 4), ("wide", 5, WIDE),
            ("double", 4095, 4), ("double", 4097, 4), ("double", 20_000, 4), ("wide", 2, WIDE),
        ):  # fmt: skip
            rows = rng.standard_normal((count, width), np.float32)
            headers, body = binary(rows)
            reply = client.post(
                f"{server.https}/v2/models/{name}/infer", content=body, headers=headers
            )
            assert reply.status_code == 200, reply.text
            assert (answered(reply.headers, reply.content) == 2 * rows.ravel()).all(), (name, count)


def test_requests_behind_a_large_body_in_the_same_records_are_answered(secure, authority):
    """Large, small, large, small, written as one stream that is cut anywhere."""
    server = secure()
    port = int(server.https.rpartition(":")[2])
    rng = np.random.default_rng(4)
    rows = [rng.standard_normal((count, 4), np.float32) for count in (6000, 2, 9000, 1) * 4]
    stream = b""
    for each in rows:
        headers, body = binary(each)
        headers |= {"Host": "localhost", "Content-Length": str(len(body))}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        stream += f"POST /v2/models/double/infer HTTP/1.1\r\n{lines}\r\n".encode() + body

    async def story():
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=trusting(authority), limit=1 << 24
        )

        async def send():
            start = 0
            while start < len(stream):
                end = start + int(rng.choice([7, 1000, 16384, 70_000, 300_000]))
                writer.write(stream[start:end])
                await writer.drain()
                start = end

        sending = asyncio.create_task(send())
        for each in rows:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            assert head.startswith("http/1.1 200")
            lines = dict(line.split(": ", 1) for line in head.splitlines()[1:-1])
            body = await reader.readexactly(int(lines["content-length"]))
            assert (answered(lines, body) == 2 * each.ravel()).all()
        await sending
        writer.close()
        await writer.wait_closed()

    asyncio.run(asyncio.wait_for(story(), 60))


def test_a_client_that_leaves_in_the_middle_of_a_large_body_is_forgotten(secure, authority):
    server = secure()
    port = int(server.https.rpartition(":")[2])
    headers, body = binary(np.ones((2, WIDE), np.float32))
    head = "POST /v2/models/wide/infer HTTP/1.1\r\nHost: localhost\r\n"
    head += f"Content-Length: {len(body)}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"
    for cut in (100, 100_000, len(body) - 1):
        with socket.create_connection(("127.0.0.1", port), timeout=30) as plain:
            client = trusting(authority).wrap_socket(plain, server_hostname="localhost")
            client.sendall(head.encode() + body[:cut])
            client.close()
    with httpx2.Client(verify=trusting(authority)) as client:
        reply = client.post(f"{server.https}/v2/models/wide/infer", content=body, headers=headers)
    assert (answered(reply.headers, reply.content) == 2).all()
    assert server.stop() == 0
    assert "Traceback" not in server.output


def test_keys_are_asked_for_over_tls_too(secure, folder, authority):
    made, text = keys.make("web", ["infer"])
    keys.write(folder / "keys.json", [made])
    settings = (folder / "server.toml").read_text()
    (folder / "server.toml").write_text('keys = "keys.json"\n' + settings)
    server = secure()
    with httpx2.Client(verify=trusting(authority)) as client:
        url = f"{server.https}/v2/models/double/infer"
        assert client.post(url, content=message(ROWS)).status_code == 401
        assert client.get(f"{server.https}/readyz").status_code == 200
        known = {"authorization": f"Bearer {text}"}
        assert client.post(url, content=message(ROWS), headers=known).status_code == 200
        headers, body = binary(np.ones((1, WIDE), np.float32))
        wide = f"{server.https}/v2/models/wide/infer"
        assert client.post(wide, content=body, headers=headers).status_code == 401
        assert client.post(wide, content=body, headers=headers | known).status_code == 200
    client = pytest.importorskip("tritonclient.grpc")
    with pytest.raises(client.InferenceServerException, match="UNAUTHENTICATED"):
        doubled_over_grpc(server.grpc[0], authority)
    found = doubled_over_grpc(server.grpc[0], authority, headers=known)
    assert (found == 2 * ROWS).all()


def presented(port):
    """The certificate that a new connection sees; nobody checks it."""
    return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", port)))


def test_a_renewal_is_taken_at_a_hang_up_and_no_connection_is_dropped(secure, folder, authority):
    grpc = pytest.importorskip("grpc")
    settings = (folder / "server.toml").read_text()
    (folder / "server.toml").write_text('compat = ["tensorflow-serving"]\n' + settings)
    usual = [free_port(), free_port()]
    server = secure(*usual)
    ports = [*usual, *(int(each.rpartition(":")[2]) for each in (server.https, server.grpc[0]))]
    old = ssl.PEM_cert_to_DER_cert((folder / "cert.pem").read_text())
    assert {presented(port) for port in ports} == {old}

    async def story():
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", ports[2], ssl=trusting(authority)
        )
        request = message(ROWS)
        head = "POST /v2/models/double/infer HTTP/1.1\r\nHost: localhost\r\n"
        head += f"Content-Length: {len(request)}\r\n\r\n"

        async def ask():
            writer.write(head.encode() + request)
            told = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            size = int(told.partition("content-length: ")[2].partition("\r")[0])
            await reader.readexactly(size)
            return told[9:12]

        credentials = grpc.ssl_channel_credentials(authority.path.read_bytes())
        async with grpc.aio.secure_channel(server.grpc[0], credentials) as channel:
            live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
            await live(b"")
            over = asyncio.Event()

            async def again_and_again():
                while not over.is_set():
                    assert await ask() == "200"
                    assert await live(b"")

            asking = asyncio.create_task(again_and_again())
            half = head.encode() + request[:10]  # of another connection, as the renewal comes
            slow_reader, slow_writer = await asyncio.open_connection(
                "127.0.0.1", ports[2], ssl=trusting(authority)
            )
            slow_writer.write(half)
            await slow_writer.drain()

            authority.certify(folder)
            new = ssl.PEM_cert_to_DER_cert((folder / "cert.pem").read_text())
            server.process.send_signal(signal.SIGHUP)
            await asyncio.to_thread(server.line, "the configuration was read again")
            for port in ports:
                assert await asyncio.to_thread(presented, port) == new
            slow_writer.write(request[10:])
            assert (await slow_reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            over.set()
            await asking
            for each in (writer, slow_writer):
                each.close()
                await each.wait_closed()
        return new

    new = asyncio.run(asyncio.wait_for(story(), 60))

    # A renewal that does not fit, or is too old, changes nothing, and is told.
    for spoil, said in (
        (lambda: (folder / "key.pem").write_text("no key"), "are no certificate and its key"),
        (lambda: authority.certify(folder, days=-1), "has expired"),
        (lambda: (folder / "cert.pem").unlink(), "cannot be read"),
    ):
        spoil()
        server.process.send_signal(signal.SIGHUP)
        server.line(said + r".* The certificate that was known stays\.")
        assert {presented(port) for port in ports} == {new}
    assert server.stop() == 0
    assert "Traceback" not in server.output


def text(path, content):
    path.write_text(content)


def locked(folder):
    command = ["openssl", "pkey", "-in", folder / "key.pem", "-aes128", "-passout", "pass:secret"]
    subprocess.run([*command, "-out", folder / "locked.pem"], check=True, capture_output=True)
    (folder / "locked.pem").replace(folder / "key.pem")


def mismatch(folder, authority):
    kept = (folder / "key.pem").read_bytes()
    authority.certify(folder)
    (folder / "key.pem").write_bytes(kept)


REFUSED = {
    "no certificate": (
        lambda f, a: (f / "cert.pem").unlink(),
        "tls_cert .* cannot be read: No such",
    ),
    "no key": (lambda f, a: (f / "key.pem").unlink(), "tls_key .* cannot be read: No such file"),
    "a folder": (
        lambda f, a: ((f / "key.pem").unlink(), (f / "key.pem").mkdir()),
        "tls_key .* cannot be read: Is a directory",
    ),
    "no PEM": (lambda f, a: text(f / "cert.pem", "hello"), "are no certificate and its key"),
    "swapped": (
        lambda f, a: text(f / "cert.pem", (f / "key.pem").read_text()),
        "are no certificate and its key",
    ),
    "the key of another": (mismatch, "are no certificate and its key: KEY_VALUES_MISMATCH"),
    "expired": (lambda f, a: a.certify(f, days=-1), "tls_cert .* has expired: it was valid until"),
    "a locked key": (lambda f, a: locked(f), "tls_key .* is locked with a pass phrase"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_certificate_that_nobody_can_use_is_a_sentence_and_exit_status_3(
    mlserve, packages, folder, authority, case
):
    spoil, said = REFUSED[case]
    spoil(folder, authority)
    pair = ["--tls-cert", folder / "cert.pem", "--tls-key", folder / "key.pem"]
    found = mlserve("up", packages / "double" / "1", "--port", "0", *pair)
    assert found.returncode == 3, found.stderr
    flat = " ".join(found.stderr.split())
    assert re.search(said, flat), found.stderr
    assert "Traceback" not in found.stderr
    assert "serving at" not in found.stderr
    assert found.stdout == ""


@pytest.mark.parametrize("given", ["tls_cert", "tls_key"])
def test_one_of_the_pair_alone_is_a_sentence_and_exit_status_3(mlserve, packages, folder, given):
    files = {"tls_cert": "cert.pem", "tls_key": "key.pem"}
    other = next(name for name in files if name != given)
    environment = {f"MLSERVE_{given.upper()}": str(folder / files[given])}
    found = mlserve("up", packages / "double" / "1", "--port", "0", env=environment)
    assert found.returncode == 3
    assert f"{other} is not set" in " ".join(found.stderr.split())
