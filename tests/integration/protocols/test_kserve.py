"""The KServe SDK's REST client, versions 1 and 2 of its protocol.

The SDK pins what we use in other versions, so it runs in an environment of its own. To run these:

    python -m venv kserve && kserve/bin/pip install kserve
    MLSERVE_KSERVE_PYTHON=kserve/bin/python pytest tests/integration/protocols/test_kserve.py
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

PYTHON = os.environ.get("MLSERVE_KSERVE_PYTHON", "")
pytestmark = pytest.mark.skipif(not PYTHON, reason="MLSERVE_KSERVE_PYTHON names no environment")

DOUBLED = [[0.20000000298023224, 4.0, 6.0], [-8.0, 10.0, 12.0]]


@pytest.fixture
def found(served: Any) -> Any:
    script = Path(__file__).with_name("kserve_calls.py")
    done = subprocess.run(
        [PYTHON, str(script), served.url], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_kserves_client_of_version_2_finds_what_it_looks_for(found: Any) -> None:
    error = found["v2"].pop("error")
    assert error.startswith("Request for unknown model: 'nope' is not found")
    assert found["v2"] == {
        "live": True,
        "ready": True,
        "model": True,
        "unknown": False,
        "json": DOUBLED,
        "json id": "7",
        "binary": DOUBLED,
        "binary id": "7",
    }


def test_kserves_client_of_version_1_finds_what_it_looks_for(found: Any) -> None:
    assert found["v1"] == {"live": True, "model": True, "predictions": DOUBLED}
