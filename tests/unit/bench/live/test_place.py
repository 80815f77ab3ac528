import pytest

from mlserve_cli.bench.live.place import parse
from mlserve_cli.errors import MlserveError


@pytest.mark.parametrize("key", ["secret\n", "schlüssel"])
def test_a_key_that_no_header_can_hold_is_refused_without_telling_it(key):
    with pytest.raises(MlserveError, match="the API key holds what no header can") as error:
        parse("http://127.0.0.1:8000", key=key)
    assert key.strip() not in error.value.message
