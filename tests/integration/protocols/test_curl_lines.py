"""The lines that are printed for people work in a shell as they stand."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import httpx2
import pytest

from mlserve_cli.package.package import Package
from mlserve_cli.runtime import example

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@pytest.mark.parametrize("name", ["dbl", "words", "light", "price", "every"])
def test_the_curl_line_of_every_kind_of_model_works(served: Any, name: str) -> None:
    version = "2" if name == "dbl" else "1"
    package = Package.open(served.folder / name / version)
    line = example.curl_line(package, served.url)
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=60)
    answer = json.loads(done.stdout)
    assert answer["model"] == name
    assert len(answer["predictions"]) == 1


@pytest.mark.parametrize("name", ["dbl", "words", "light", "price", "every"])
def test_an_example_fetched_from_the_server_is_answered(served: Any, name: str) -> None:
    fetched = httpx2.get(f"{served.url}/examples/{name}").raise_for_status()
    reply = httpx2.post(
        f"{served.url}/predict/{name}",
        content=fetched.content,
        headers={"content-type": fetched.headers["content-type"]},
    )
    assert reply.status_code == 200, reply.text


def test_the_page_shows_a_line_for_the_address_that_it_was_opened_at(served: Any) -> None:
    text = httpx2.get(f"{served.url}/", headers={"accept": "text/html,*/*;q=0.8"}).text
    assert f"curl -s {served.url}/predict/price -H" in text
    assert httpx2.get(f"{served.url}/openapi.json").json()["openapi"] == "3.1.0"
