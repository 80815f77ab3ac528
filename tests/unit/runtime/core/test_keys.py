"""API keys: what is kept of them, and who gets in."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mlserve_cli.runtime import keys
from mlserve_cli.runtime.errors import Forbidden, SettingsError, Unauthorized
from mlserve_cli.runtime.gate import scope_of
from mlserve_cli.runtime.security import Guard, is_loopback
from mlserve_cli.runtime.settings import Settings


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def guard(file: Path) -> Guard:
    made = Guard(Settings(keys=file.name), file.parent)
    made.load()
    return made


def enter(guard: Guard, scope: keys.Scope, text: str) -> str | None:
    return guard.require(scope, authorization=f"Bearer {text}", api_key=None)


def test_the_file_never_holds_the_key_itself(file: Path) -> None:
    made, text = keys.make("web", ["infer"])
    keys.write(file, [made])
    assert text not in file.read_text()
    assert keys.read(file) == [made]
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_key_opens_its_scope_and_admin_opens_both(file: Path) -> None:
    web, web_text = keys.make("web", ["infer"])
    ops, ops_text = keys.make("ops", ["admin"])
    keys.write(file, [web, ops])
    found = guard(file)
    assert enter(found, "infer", web_text) == "web"
    assert enter(found, "infer", ops_text) == enter(found, "admin", ops_text) == "ops"
    with pytest.raises(Forbidden, match="'web' lacks the scope admin"):
        enter(found, "admin", web_text)


@pytest.mark.parametrize("sent", [None, "", "Bearer", "Bearer mls_wrong", "Basic !!", "Digest x"])
def test_nobody_enters_with_anything_else(file: Path, sent: str | None) -> None:
    made, _ = keys.make("web", ["infer"])
    keys.write(file, [made])
    with pytest.raises(Unauthorized):
        guard(file).require("infer", authorization=sent, api_key=None)


def test_a_key_ends_on_its_day(file: Path) -> None:
    today = datetime.now(UTC).date()
    old, old_text = keys.make("old", ["infer"], expires=today)
    new, new_text = keys.make("new", ["infer"], expires=today + timedelta(days=2))
    keys.write(file, [old, new])
    found = guard(file)
    assert enter(found, "infer", new_text) == "new"
    with pytest.raises(Unauthorized, match="has expired"):
        enter(found, "infer", old_text)


def test_a_key_that_was_removed_is_refused_without_a_restart(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlserve_cli.runtime.security.RECHECK_S", 0.0)
    web, text = keys.make("web", ["infer"])
    other, other_text = keys.make("other", ["infer"])
    keys.write(file, [web])
    found = guard(file)
    assert enter(found, "infer", text) == "web"
    keys.write(file, [other])
    assert enter(found, "infer", other_text) == "other"
    with pytest.raises(Unauthorized, match="not known"):
        enter(found, "infer", text)


def test_a_file_that_was_damaged_changes_nothing(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlserve_cli.runtime.security.RECHECK_S", 0.0)
    web, text = keys.make("web", ["infer"])
    keys.write(file, [web])
    found = guard(file)
    file.write_text("{")
    assert enter(found, "infer", text) == "web"


def test_a_server_does_not_start_with_a_damaged_file(file: Path) -> None:
    for text in (b'{"keys": [{"name": "web"}]}', b'{"keys": [{"name": "\xff"}]}'):
        file.write_bytes(text)
        with pytest.raises(SettingsError, match="is no keys file"):
            guard(file)
    file.unlink()
    with pytest.raises(SettingsError, match="does not exist"):
        guard(file)


def test_a_file_keeps_its_mode_when_it_is_written_again(file: Path) -> None:
    made, _ = keys.make("web", ["infer"])
    keys.write(file, [made])
    file.chmod(0o640)
    keys.write(file, [])
    assert file.stat().st_mode & 0o777 == 0o640


def test_without_keys_only_loopback_may_be_administered(tmp_path: Path) -> None:
    here = Guard(Settings(), tmp_path)
    everywhere = Guard(Settings(host="0.0.0.0", insecure=True), tmp_path)
    assert here.require("admin", authorization=None, api_key=None) is None
    assert everywhere.require("infer", authorization=None, api_key=None) is None
    with pytest.raises(Forbidden):
        everywhere.require("admin", authorization=None, api_key=None)


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("GET", "/readyz", None),
        ("GET", "/v2/health/ready", None),
        ("GET", "/ping", None),
        ("GET", "/metrics", "infer"),
        ("POST", "/v2/models/m/infer", "infer"),
        ("POST", "/v2/repository/index", "infer"),
        ("POST", "/v2/repository/models/m/unload", "admin"),
        ("GET", "/admin/v1/status", "admin"),
        ("GET", "/models", "infer"),
        ("DELETE", "/models/m", "admin"),
        ("GET", "/some/thing/of/the/users", "infer"),
    ],
)
def test_what_a_path_needs(method: str, path: str, scope: str | None) -> None:
    assert scope_of(method, path) == scope


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
     ("localhost.example.org", False), ("10.0.0.1", False)],
)  # fmt: skip
def test_what_is_loopback(host: str, local: bool) -> None:
    assert is_loopback(host) is local
