"""Where each setting comes from: one declaration, three origins, the later ones win."""

import math
import tomllib
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import inspect

from mlserve_cli.runtime.configuration import DEFAULT, flag, kind_of, resolve
from mlserve_cli.runtime.errors import SettingsError
from mlserve_cli.runtime.settings import TABLES, Settings, load, to_toml, toml
from mlserve_cli.runtime.sizing import Sizing

SCALARS = [name for name in Settings.__struct_fields__ if name not in TABLES]

WORDS = st.text(
    st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=["Cc", "Cs"]),
    min_size=1,
    max_size=20,
).filter(lambda text: text == text.strip())


def values(name):
    """Whatever a setting may be."""
    match kind_of(Settings, name):
        case inspect.BoolType():
            return st.booleans()
        case inspect.IntType(ge=low, le=high):
            return st.integers(low, 1 << 40 if high is None else high)
        case inspect.FloatType(gt=above, ge=low, le=high):
            return st.floats(above if low is None else low, high, exclude_min=low is None)
        case inspect.LiteralType(values=allowed):
            return st.sampled_from(sorted(allowed))
        case inspect.VarTupleType(item_type=inspect.LiteralType(values=allowed)):
            return st.lists(st.sampled_from(sorted(allowed)), min_size=1, max_size=3).map(tuple)
        case inspect.StrType():
            return WORDS
        case other:
            raise AssertionError(f"{name} is {other}")


def text_of(value):
    """How a person writes a value in the environment or behind a flag."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(value) if isinstance(value, tuple) else str(value)


SOME = st.fixed_dictionaries({}, optional={name: values(name) for name in SCALARS})


def resolved(file, environ=None, flags=None):
    """The configuration of a file with those values, and the file's path."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "server.toml"
        lines = [f"{name} = {toml(value)}" for name, value in file.items()]
        path.write_text("\n".join(lines), encoding="utf-8")
        environ = {
            f"MLSERVE_{name.upper()}": text_of(each) for name, each in (environ or {}).items()
        }
        flags = {name: text_of(value) for name, value in (flags or {}).items()}
        return resolve(path, environ, flags), path


@settings(max_examples=40)
@given(SOME, SOME, SOME)
def test_the_last_origin_that_names_a_setting_wins_and_is_named(file, environ, flags):
    found, path = resolved(file, environ, flags)

    for name in SCALARS:
        value, origin = getattr(Settings(), name), DEFAULT
        for values_, shown in (
            (file, str(path)),
            (environ, f"MLSERVE_{name.upper()}"),
            (flags, flag(name)),
        ):
            if name in values_:
                value, origin = values_[name], shown
        assert getattr(found.settings, name) == value
        assert found.origins[name] == origin


SIZINGS = st.builds(
    Sizing,
    threads=st.integers(0, 64),
    max_batch=st.integers(1, 512),
    max_delay_ms=st.floats(0, 100),
    inline=st.just(False),
    reasons=st.dictionaries(st.sampled_from(["threads", "max_batch"]), st.text(max_size=20)),
)
POLICIES = st.one_of(
    st.just("all"), st.integers(1, 9), st.lists(st.from_regex(r"\A[1-9]{1,2}\Z"), min_size=1)
)


@settings(max_examples=40)
@given(SOME, st.dictionaries(WORDS, SIZINGS, max_size=3), st.dictionaries(WORDS, POLICIES))
def test_what_is_printed_is_a_file_that_says_the_same(file, sizing, policies):
    wanted = Settings(**file, sizing=sizing, versions=policies)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "server.toml"
        path.write_text(to_toml(wanted), encoding="utf-8")
        found = resolve(path, {}, {"port": "1"})
        path.write_text(found.to_toml(), encoding="utf-8")
        again = load(path, {})
    want = {name: msgspec.structs.replace(each, reasons={}) for name, each in wanted.sizing.items()}
    assert again == msgspec.structs.replace(wanted, port=1, sizing=want)


@settings(max_examples=40)
@given(SOME, SOME)
def test_as_json_every_setting_has_its_value_and_its_origin(file, environ):
    found, _ = resolved(file, environ)
    document = msgspec.json.decode(msgspec.json.encode(found.to_builtins()))
    assert document.keys() == set(Settings.__struct_fields__)
    back = msgspec.convert({name: each["value"] for name, each in document.items()}, Settings)
    assert back == found.settings
    assert {name: each["origin"] for name, each in document.items()} == found.origins


def wrong(name):
    """Texts that a setting cannot be, as they stand in a file and elsewhere."""
    match kind_of(Settings, name):
        case inspect.BoolType():
            return ['"perhaps"', "2"], ["perhaps", "2"]
        case inspect.IntType(ge=low, le=high):
            beyond = [] if high is None else [str(high + 1)]
            return ['"8"', "true", "1.5", str(low - 1), *beyond], ["", "x", str(low - 1), *beyond]
        case inspect.FloatType(gt=above, ge=low, le=high):
            below = str(above if low is None else math.nextafter(low, -1))
            beyond = [] if high is None else [str(high * 2)]
            return ['"8"', "nan", "[]", below, *beyond], ["x", "nan", "-inf", below, *beyond]
        case inspect.LiteralType():
            return ["1", '"neither"', "true"], ["neither", "OFF"]
        case inspect.VarTupleType():
            return ['"triton"', '["neither"]', "1"], ["neither", "triton,neither"]
        case inspect.StrType(min_length=least):
            return ["1", "true", "[]", *(['""'] if least else [])], []
        case other:
            raise AssertionError(f"{name} is {other}")


@pytest.mark.parametrize("name", SCALARS)
def test_a_wrong_value_is_refused_from_wherever_it_comes(name, tmp_path):
    path = tmp_path / "server.toml"
    in_file, outside = wrong(name)
    said = []
    for text in in_file:
        path.write_text(f"{name} = {text}\n")
        with pytest.raises(SettingsError) as caught:
            resolve(path, {})
        said.append((caught.value.message, f"'{path}': {name} is "))
    for text in filter(None, outside):
        for environ, flags, where in (
            ({f"MLSERVE_{name.upper()}": text}, {}, f"the environment: MLSERVE_{name.upper()} is "),
            ({}, {name: text}, f"the command line: {flag(name)} is "),
        ):
            with pytest.raises(SettingsError) as caught:
                resolve(None, environ, flags)
            said.append((caught.value.message, f"{where}{text!r}"))
    for message, begins in said:
        assert message.startswith(begins), message
        assert ", and it must be " in message
        assert message.endswith(".")


@pytest.mark.parametrize("name", SCALARS)
def test_every_setting_is_refused_under_a_slip_of_its_name_with_the_right_one(name, tmp_path):
    path = tmp_path / "server.toml"
    path.write_text(f"{name}x = 1\n")
    with pytest.raises(SettingsError, match="is no setting") as caught:
        resolve(path, {})
    assert f"'{name}'" in caught.value.hint


@pytest.mark.parametrize("name", TABLES)
def test_a_table_in_the_environment_is_refused_and_not_passed_over(name):
    with pytest.raises(SettingsError, match=f"MLSERVE_{name.upper()} is set"):
        resolve(None, {f"MLSERVE_{name.upper()}": "{}"})


def test_variables_that_are_no_settings_are_none_of_ours():
    environ = {"MLSERVE_SERVICE_HOST": "10.0.0.1", "MLSERVE_PORT_8000_TCP": "x", "PORT": "1"}
    assert resolve(None, environ).settings == Settings()


def test_the_printed_file_is_toml_whatever_an_origin_is_called(tmp_path):
    path = tmp_path / "a\nport = 1 #"
    path.mkdir()
    (path / "server.toml").write_text("port = 7\n")
    found = resolve(path / "server.toml", {})
    assert tomllib.loads(found.to_toml())["port"] == 7
