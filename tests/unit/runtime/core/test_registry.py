from types import SimpleNamespace

import pytest

from mlserve_cli.runtime.errors import NotFound
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.registry import Registry


def loaded(name, version, ready=True):
    manifest = Manifest(name=name, version=version, variant="fp32", inputs=(), outputs=())
    return SimpleNamespace(manifest=manifest, ready=ready)


@pytest.fixture
def registry():
    found = Registry()
    for name, version in [("dbl", "9"), ("dbl", "10"), ("dbl", "1.10"), ("abc", "1")]:
        found.add(loaded(name, version))
    return found


def test_the_newest_version_answers_where_none_is_named(registry):
    assert registry.get("dbl").manifest.version == "10"
    assert registry.get("dbl", "9").manifest.version == "9"


def test_versions_are_ordered_as_numbers(registry):
    assert registry.versions("dbl") == ["1.10", "9", "10"]
    assert registry.versions("nope") == []


@pytest.mark.parametrize(
    ("older", "newer"),
    [("1.9", "1.10"), ("2", "10"), ("1", "1.0.1"), ("v1", "v2"), ("01", "1"), ("1-a2", "1-a10")],
)
def test_a_newer_version_comes_after_an_older_one(older, newer):
    registry = Registry()
    registry.add(loaded("m", newer))
    registry.add(loaded("m", older))

    assert registry.versions("m") == [older, newer]
    assert registry.get("m").manifest.version == newer


def test_models_are_ordered_by_name_and_version(registry):
    found = [(model.manifest.name, model.manifest.version) for model in registry.models()]

    assert found == [("abc", "1"), ("dbl", "1.10"), ("dbl", "9"), ("dbl", "10")]


def test_an_unknown_model_is_told_as_clients_expect(registry):
    with pytest.raises(NotFound, match=r"^Request for unknown model: 'nope' is not found$") as info:
        registry.get("nope")
    assert info.value.hint == "the models are abc, dbl"


def test_an_unknown_version_is_told_as_clients_expect(registry):
    expected = r"^Request for unknown model: 'dbl' version 99 is not found$"
    with pytest.raises(NotFound, match=expected) as info:
        registry.get("dbl", "99")
    assert info.value.hint == "its versions are 1.10, 9, 10"


def test_an_unknown_model_and_version_is_an_unknown_model():
    with pytest.raises(NotFound, match="'m' is not found") as info:
        Registry().get("m", "1")
    assert info.value.hint == "the models are none"


def test_ready_is_what_the_model_says(registry):
    registry.get("abc").ready = False

    assert registry.ready("dbl")
    assert not registry.ready("abc")
    assert not registry.ready("dbl", "99")


def test_a_version_that_is_added_again_takes_the_place_of_the_first(registry):
    again = loaded("dbl", "10")
    registry.add(again)

    assert registry.get("dbl") is again
    assert registry.versions("dbl") == ["1.10", "9", "10"]


def test_nothing_is_found_after_clear(registry):
    registry.clear()

    assert registry.models() == []
    assert not registry.ready("dbl")
