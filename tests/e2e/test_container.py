"""The emitted Dockerfile is built as it stands, and its image runs as a careful operator would.

No registry is asked: a base image of the name in FROM is made of this very Python, and pip reads
wheels that were fetched before. Image storage is private to the test.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.container,
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(map(shutil.which, ("buildah", "podman", "runc"))),
        reason="buildah, podman and runc are needed",
    ),
    pytest.mark.skipif(os.geteuid() != 0, reason="building without a daemon needs root here"),
]
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
IMAGE = "localhost/served:test"


@pytest.fixture
def storage():
    """Options that keep images and containers in a folder of the test's own."""
    # podman takes no run root of more than 50 characters, so it is not below tmp_path.
    with tempfile.TemporaryDirectory(prefix="mlserve-", ignore_cleanup_errors=True) as short:
        yield [f"--root={short}/images", f"--runroot={short}/run", "--storage-driver=overlay"]
        # An overlay that is still mounted would keep the folder from being removed.
        with Path("/proc/self/mounts").open() as mounts:
            inside = [line.split()[1] for line in mounts if short in line]
        for place in reversed(inside):
            subprocess.run(["umount", place], check=False)


@pytest.fixture
def folder(iris_package, tmp_path):
    from mlserve_cli.emit.folder import emit
    from mlserve_cli.package.progress import Silent

    return emit([iris_package().path], tmp_path / "server", progress=Silent()).path


def test_the_image_is_not_root_runs_read_only_answers_and_stops(folder, storage, tmp_path):
    _base(tmp_path / "base", storage)
    _build(folder, storage, tmp_path)

    # What Docker reads of an image; podman's own view of it leaves the health check out.
    facts = json.loads(_run("buildah", *storage, "inspect", "--type", "image", IMAGE).stdout)
    facts = facts["Docker"]["config"]
    assert facts["User"] == "10001:10001"
    assert facts["Healthcheck"]["Test"][0] == "CMD"
    assert "/readyz" in facts["Healthcheck"]["Test"][-1]
    assert facts["StopSignal"] == "SIGTERM"
    assert facts["Cmd"] == ["python", "server.py"]

    port = _free_port()
    started = _run(
        *("podman", *storage, "--runtime", "runc", "--cgroup-manager", "cgroupfs", "run"),
        *("--detach", "--network", "host", "--read-only", "--cap-drop", "all"),
        *("--security-opt", "no-new-privileges", "--ulimit", "nofile=1024:1024"),
        *("--ulimit", "nproc=4096:4096", "--env", "MLSERVE_HOST=127.0.0.1"),
        *("--env", f"MLSERVE_PORT={port}", IMAGE),
    )
    container = started.stdout.strip()
    engine = ["podman", *storage, "--runtime", "runc", "--cgroup-manager", "cgroupfs"]
    try:
        _wait_until_ready(port, lambda: _run(*engine, "logs", container, check=False))
        body = (folder / "examples").iterdir().__next__().read_bytes()
        answer = _post(port, body)
        assert "error" not in answer

        user = _run(*engine, "exec", container, "python", "-c", "import os; print(os.getuid())")
        assert user.stdout.strip() == "10001"
        writing = _run(
            *engine, "exec", container, "python", "-c", "open('/server/x', 'w')", check=False
        )
        assert writing.returncode != 0
        health = facts["Healthcheck"]["Test"][1:]
        assert _run(*engine, "exec", container, *health).returncode == 0

        _run(*engine, "kill", "--signal", "TERM", container)
        ended = _run(*engine, "wait", container)
        assert ended.stdout.strip() == "0", _run(*engine, "logs", container).stdout
    finally:
        _run(*engine, "rm", "--force", container, check=False)


def _run(*command, check=True, timeout=280):
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=timeout
    )
    if check:
        assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done


def _build(folder, storage, tmp_path):
    wheels = tmp_path / "wheels"
    _run(
        *(sys.executable, "-m", "pip", "download", "--quiet", "--only-binary", ":all:"),
        *("--dest", wheels, "-r", folder / "requirements.txt"),
    )
    configuration = tmp_path / "pip.conf"
    configuration.write_text("[global]\nno-index = true\nfind-links = /wheels\n")
    _run(
        *("buildah", *storage, "bud", "--isolation", "chroot", "--format", "docker"),
        *("--pull-never", "--volume", f"{wheels}:/wheels:ro"),
        *("--volume", f"{configuration}:/etc/pip.conf:ro", "--tag", IMAGE, folder),
    )


def _base(root, storage):
    """An image of the name that FROM asks for, with this Python and what it is linked to."""
    library = Path(sysconfig.get_path("stdlib"))
    target = root / "usr" / "local" / "lib" / f"python{PYTHON}"
    unneeded = shutil.ignore_patterns("site-packages", "__pycache__", "test", "idlelib", "tkinter")
    shutil.copytree(library, target, symlinks=True, ignore=unneeded)
    pip = next((library / "ensurepip" / "_bundled").glob("pip-*.whl"), None)
    if pip is None:
        pytest.skip("this Python carries no wheel of pip")
    with zipfile.ZipFile(pip) as archive:
        archive.extractall(target / "site-packages")
    executable = Path(sys.executable).resolve()
    (root / "usr" / "local" / "bin").mkdir()
    shutil.copy(executable, root / "usr" / "local" / "bin" / "python")
    for path in _linked([executable, *(target / "lib-dynload").glob("*.so")]):
        place = root / "usr" / "local" / "lib" / path.name
        if path.name.startswith("ld-linux"):
            place = root / path.relative_to("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    (root / "tmp").mkdir(mode=0o1777)
    (root / "etc").mkdir()
    (root / "etc" / "passwd").write_text("root:x:0:0:root:/root:/sbin/nologin\n")
    recipe = root.with_name("Base")
    recipe.write_text(
        "FROM scratch\nCOPY base/ /\nENV PATH=/usr/local/bin LD_LIBRARY_PATH=/usr/local/lib\n"
    )
    _run(
        *("buildah", *storage, "bud", "--isolation", "chroot", "--format", "docker"),
        *("--tag", f"docker.io/library/python:{PYTHON}-slim", "--file", recipe, root.parent),
    )


def _linked(files):
    """The shared libraries of some binaries, and those that wheels expect of any Linux."""
    found = set()
    for file in files:
        for line in _run("ldd", file, check=False).stdout.splitlines():
            found |= {Path(word) for word in line.split() if word.startswith("/")}
    cache = _run("/sbin/ldconfig", "-p").stdout.splitlines()
    for name in ("libstdc++.so.6", "libgcc_s.so.1", "librt.so.1", "libpthread.so.0", "libdl.so.2"):
        places = [line.split(" => ")[1] for line in cache if line.strip().startswith(name + " ")]
        found |= {Path(place) for place in places[:1]}
    return {path for path in found if path.is_file()}


def _free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_until_ready(port, logs):
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as response:
                assert response.status == 200
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    said = logs()
    raise AssertionError(f"not ready after 60 s:\n{said.stdout}{said.stderr}")


def _post(port, body):
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/predict/iris",
        data=body,
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)
