"""The KServe SDK's clients: REST of versions 1 and 2, and gRPC.

The SDK pins what we use in other versions, so it runs in an environment of its own, which is made
once and kept in pytest's cache: `kserve.txt` has what its clients import, and no more.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.version_info >= (3, 14), reason="KServe's SDK is made for Python < 3.14"
    ),
]

FOLDER = Path(__file__).parent
REQUIREMENTS = FOLDER / "kserve.txt"
UNREACHABLE = re.compile(
    r"connection broken|NewConnectionError|NameResolutionError|ConnectTimeout|ProxyError"
    r"|Network is unreachable"
)
"""How pip speaks where it finds no registry at all."""

DOUBLED = [[0.20000000298023224, 4.0, 6.0], [-8.0, 10.0, 12.0]]
WORDS = ["häß", "", "a\nb"]
REST = ["close", "explain", "infer", "is_model_ready", "is_server_live", "is_server_ready"]


@pytest.fixture(scope="module")
def python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that has the SDK."""
    recipe = REQUIREMENTS.read_bytes() + sys.version.encode()
    name = f"kserve-{hashlib.sha256(recipe).hexdigest()[:12]}"
    cache = getattr(request.config, "cache", None)
    folder = (cache.mkdir("environments") if cache else tmp_path_factory.mktemp("kserve")) / name
    found, done = folder / "bin" / "python", folder / "done"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=120)
        options = "install --no-deps --no-compile --disable-pip-version-check --retries 1 -r"
        installed = subprocess.run(
            [found, "-m", "pip", *options.split(), REQUIREMENTS],
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if installed.returncode and UNREACHABLE.search(installed.stderr):
            pytest.skip("pip reaches no registry, and KServe's SDK is installed from one")
        assert installed.returncode == 0, installed.stderr
        done.touch()
    return found


@pytest.fixture(scope="module")
def found(served: Any, python: Path) -> Any:
    done = subprocess.run(
        [python, FOLDER / "kserve_calls.py", served.url, served.grpc],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("client", "methods"),
    [("v1", REST), ("v2", REST), ("grpc", [each for each in REST if each != "explain"])],
)
def test_every_public_method_of_kserves_clients_was_called(
    found: Any, client: str, methods: list[str]
) -> None:
    assert found[client]["methods"] == methods
    assert found[client]["called"] == methods


def test_kserves_client_of_version_2_finds_what_it_looks_for(found: Any) -> None:
    asked = found["v2"]
    assert (asked["live"], asked["ready"], asked["model"], asked["unknown"]) == (
        True,
        True,
        True,
        False,
    )
    for form in ("json", "binary"):
        assert asked[form] == DOUBLED
        assert asked[f"{form} id"] == "7"
        assert asked[f"{form} model"][0] == "dbl"
        assert asked[f"{form} words"] == WORDS
    assert asked["wanted"] == DOUBLED
    assert asked["wanted in binary"]
    assert asked["a graph's"]["outputs"][0]["data"] == [2, 4, 6]
    assert asked["error"].startswith("Request for unknown model: 'nope' is not found, '404")
    assert asked["wrong input"].startswith(
        "[request id: 7] unexpected inference input 'z' for model 'dbl', '400"
    )


def test_kserves_client_of_version_1_finds_what_it_looks_for(found: Any) -> None:
    asked = found["v1"]
    assert (asked["live"], asked["model"], asked["predictions"]) == (True, True, DOUBLED)
    assert asked["unknown"].startswith("Could not find any versions of model nope, '404")
    assert asked["wrong"].startswith("unexpected shape for input 'x' for model 'dbl'")
    assert asked["explain"].startswith("model 'dbl' has no explainer, '501")


def test_kserves_grpc_client_finds_what_it_looks_for(found: Any) -> None:
    asked = found["grpc"]
    assert (asked["live"], asked["ready"], asked["model"], asked["unknown"]) == (
        True,
        True,
        True,
        False,
    )
    for form in ("typed", "raw"):
        assert asked[form] == DOUBLED
        assert asked[f"{form} id"] == "7"
        assert asked[f"{form} words"] == WORDS
    assert asked["error"].startswith("[request id: 7] Request for unknown model: 'nope'")
