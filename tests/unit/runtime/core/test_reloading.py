"""What SIGHUP takes over, and what it leaves for the next start."""

from typing import Any

import msgspec
import pytest

from mlserve_cli.runtime.reloading import LIVE, merged
from mlserve_cli.runtime.settings import Settings

CHANGED: dict[str, Any] = {
    "access_log": "all",
    "keys": "other.json",
    "log_format": "json",
    "log_level": "error",
    "max_inflight_mb": 1.0,
    "max_package_mb": 1.0,
    "max_queue_ms": 1.0,
    "max_queue_rows": 1,
    "shutdown_grace_s": 9.0,
    "shutdown_timeout_s": 9.0,
    "versions": {"iris": "all"},
    "watch_s": 9.0,
}


def test_everything_that_can_change_does() -> None:
    assert CHANGED.keys() | {"sizing", "tls_cert", "tls_key"} == set(LIVE)
    wanted = msgspec.structs.replace(Settings(), **CHANGED)
    assert merged(Settings(), wanted) == (wanted, [])


def test_an_address_waits_for_the_next_start() -> None:
    taken, waiting = merged(Settings(), Settings(port=9000, log_format="json"))
    assert taken == Settings(log_format="json")
    assert waiting == ["port"]


@pytest.mark.parametrize(
    ("old", "taken"),
    [
        (Settings(keys="k", host="0.0.0.0"), False),
        (Settings(keys="k", host="0.0.0.0", insecure=True), True),
        (Settings(keys="k"), True),
    ],
)
def test_keys_are_not_taken_away_from_a_server_that_others_reach(
    old: Settings, taken: bool
) -> None:
    new, waiting = merged(old, msgspec.structs.replace(old, keys=""))
    assert (new.keys == "") is taken
    assert waiting == ([] if taken else ["keys"])


def test_tls_is_renewed_but_not_turned_on_or_off_in_a_port_that_listens() -> None:
    pair = Settings(tls_cert="a", tls_key="b")
    renewed = Settings(tls_cert="c", tls_key="d")
    assert merged(pair, renewed) == (renewed, [])
    assert merged(pair, Settings()) == (pair, ["tls_cert", "tls_key"])
    assert merged(Settings(), pair) == (Settings(), ["tls_cert", "tls_key"])
