"""`s3://` in and out, against a moto server in a process of its own.

s3fs pins what we use in other versions, so it and the server are installed into a folder of their
own, once, which is kept in pytest's cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyarrow")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(480)]

REQUIREMENTS = Path(__file__).parent / "s3.txt"
ROOT = Path(__file__).parents[3]
UNREACHABLE = re.compile(
    r"connection broken|NewConnectionError|NameResolutionError|ConnectTimeout|ProxyError"
    r"|Network is unreachable"
)
COMMAND = [sys.executable, "-c", "from mlserve_cli.cli.main import run; run()", "predict"]


@pytest.fixture(scope="module")
def libraries(request, tmp_path_factory):
    """A folder that has s3fs and moto."""
    recipe = REQUIREMENTS.read_bytes() + sys.version.encode()
    name = f"s3-{hashlib.sha256(recipe).hexdigest()[:12]}"
    cache = getattr(request.config, "cache", None)
    folder = (cache.mkdir("environments") if cache else tmp_path_factory.mktemp("s3")) / name
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        options = "install --no-deps --no-compile --disable-pip-version-check --retries 1"
        installed = subprocess.run(
            [sys.executable, "-m", "pip", *options.split(), "--target", folder, "-r", REQUIREMENTS],
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if installed.returncode and UNREACHABLE.search(installed.stderr):
            pytest.skip("pip reaches no registry, and s3fs is installed from one")
        assert installed.returncode == 0, installed.stderr
        (folder / "done").touch()
    return folder


@pytest.fixture(scope="module")
def environment(libraries, tmp_path_factory):
    """What a process needs to reach the server, which runs meanwhile."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "PYTHONPATH": f"{libraries}{os.pathsep}{ROOT}",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "NO_PROXY": "127.0.0.1",
    }
    # A file: it tells of every request, and into a pipe that nobody reads it would soon block.
    log = tmp_path_factory.mktemp("moto") / "log"
    with log.open("wb") as said:
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=said,
        )
    try:
        end = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < end
                time.sleep(0.1)
        yield environment
    finally:
        server.kill()
        server.wait(30)


def store(environment, *lines):
    """Run lines of Python on the store, `s3`; what they print."""
    text = "\n".join(["import s3fs", "s3 = s3fs.S3FileSystem()", *lines])
    done = subprocess.run(
        [sys.executable, "-c", text],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def mlserve(environment, *arguments):
    return subprocess.run(
        [*COMMAND, *arguments], env=environment, capture_output=True, timeout=180, check=False
    )


@pytest.fixture
def bucket(environment, iris, tmp_path):
    """A bucket of the test's own, with the flowers four hundred times over in two Parquet files."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    name = f"b{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:12]}"
    rows = np.tile(iris[0], (400, 1))
    for number, half in enumerate(np.split(rows, 2)):
        columns = dict(zip(("sl", "sw", "pl", "pw"), half.T, strict=True))
        columns["id"] = np.arange(len(half)) + number * len(half)
        pq.write_table(pa.table(columns), tmp_path / f"{number}.parquet", row_group_size=5000)
    store(
        environment,
        f"s3.mkdir('{name}')",
        f"s3.put('{tmp_path}/0.parquet', '{name}/in/0.parquet')",
        f"s3.put('{tmp_path}/1.parquet', '{name}/in/1.parquet')",
    )
    return name


@pytest.mark.parametrize("target", ["answers.parquet", "answers"])
def test_a_job_on_s3_that_is_killed_goes_on_to_the_same_bytes(
    environment, bucket, iris_package, tmp_path, target
):
    package = iris_package()
    options = ["-i", f"s3://{bucket}/in/", "--keep", "id", "--batch", "64", "--part-rows", "2000"]
    whole = mlserve(
        environment, str(package.path), *options, "-o", f"s3://{bucket}/whole/{target}", "--json"
    )
    assert whole.returncode == 0, whole.stderr
    assert json.loads(whole.stdout)["rows"] == 60_000

    out = f"s3://{bucket}/killed/{target}"
    state = f"{bucket}/killed/" + (target if target == "answers" else f".{target}.parts")
    command = [*COMMAND, str(package.path), *options, "-o", out, "--resume"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        waited = store(
            environment,
            "import time",
            "parts = 0",
            "end = time.monotonic() + 60",
            "while parts < 3 and time.monotonic() < end:",
            f"    parts = len(s3.glob('{state}/part-*', refresh=True))",
            "    s3.invalidate_cache()",
            "    time.sleep(0.01)",
            "print(parts)",
        )
        process.send_signal(signal.SIGKILL)
    assert int(waited) >= 3
    last = subprocess.run(
        [*command, "--json"], env=environment, capture_output=True, timeout=180, check=False
    )
    assert last.returncode == 0, last.stderr
    report = json.loads(last.stdout)
    assert report["rows"] == 60_000
    listing = (
        "print(json.dumps({name.partition('/')[2].partition('/')[2]: "
        "hashlib.sha256(s3.cat_file(name)).hexdigest() for name in s3.find('BUCKET') "
        "if not name.endswith('_manifest.json')}))"
    )
    found = [
        json.loads(
            store(
                environment, "import hashlib, json", listing.replace("BUCKET", f"{bucket}/{name}")
            )
        )
        for name in ("whole", "killed")
    ]
    assert found[0] == found[1]
    # A single file has a hidden one beside it, which says of which job it is.
    assert len(found[0]) == (2 if target.endswith("parquet") else report["parts"])


def test_what_is_not_on_s3_is_a_sentence(environment, bucket, iris_package, tmp_path):
    package = str(iris_package().path)
    out = str(tmp_path / "out.csv")
    for source, message in (
        (f"s3://{bucket}/in/2.parquet", b"2.parquet' does not exist."),
        (f"s3://{bucket}/in/*.csv", b"no file matches"),
        ("s3://nobodys/in/", b"error: 's3://nobodys/in/' "),
    ):
        done = mlserve(environment, package, "-i", source, "-o", out)
        assert done.returncode == 1, source
        assert message in done.stderr
        assert b"Traceback" not in done.stderr


def test_a_store_that_never_answers_is_given_up_with_a_sentence(
    environment, iris_package, tmp_path
):
    package = str(iris_package().path)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel accepts, and nobody answers
        patience = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "FSSPEC_S3": json.dumps({"config_kwargs": {"read_timeout": 0.5}}),
        }
        done = mlserve(
            environment | patience,
            package,
            *("-i", "s3://bucket/rows.parquet", "-o", str(tmp_path / "out.csv")),
        )
    assert done.returncode == 1
    assert b"error: 's3://bucket/rows.parquet' cannot be read: Read timeout on" in done.stderr
    assert b"Traceback" not in done.stderr
    assert list(tmp_path.glob("*out*")) == []
