import msgspec
import pytest

from mlserve_cli.runtime.errors import SettingsError
from mlserve_cli.runtime.settings import Settings, load, to_toml
from mlserve_cli.runtime.sizing import Sizing


@pytest.fixture
def toml(tmp_path):
    def write(text):
        path = tmp_path / "server.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def refusal(*arguments):
    with pytest.raises(SettingsError) as caught:
        load(*arguments)
    return caught.value


def test_without_a_file_the_defaults_hold():
    assert load(None, {}) == Settings()


def test_the_environment_wins_over_the_file(toml):
    path = toml('port = 9000\nhost = "::1"\n')

    found = load(path, {"MLSERVE_PORT": "9001"})

    assert (found.port, found.host) == (9001, "::1")


def test_every_setting_can_come_from_the_environment():
    texts = {
        "host": "0.0.0.0", "port": "1", "models": "m", "max_body_mb": "1.5", "max_queue_rows": "7",
        "processing_threads": "3", "shutdown_grace_s": "0", "shutdown_timeout_s": "5",
        "log_format": "json", "access_log": "all", "server_timing": "false", "traces": "otlp",
        "grpc_port": "8001", "compat": "triton,torchserve", "insecure": "true",
    }  # fmt: skip
    found = load(None, {f"MLSERVE_{name.upper()}": text for name, text in texts.items()})

    changed = {
        name for name in Settings.__struct_fields__
        if getattr(found, name) != getattr(Settings(), name)
    }  # fmt: skip
    assert changed == set(texts)
    assert (found.port, found.max_body_mb, found.server_timing) == (1, 1.5, False)
    assert found.compat == ("triton", "torchserve")


@pytest.mark.parametrize("text", ["tcp://10.96.0.12:8000", "udp://10.0.0.1:1", "", "  "])
def test_a_port_that_kubernetes_sets_for_a_service_is_no_setting(text):
    assert load(None, {"MLSERVE_PORT": text}).port == 8000


@pytest.mark.parametrize(
    ("name", "text", "allowed"),
    [
        ("PORT", "99999", "a whole number from 0 to 65535"),
        ("PORT", "http", "a whole number from 0 to 65535"),
        ("LOG_FORMAT", "xml", "'json' or 'text'"),
        ("SHUTDOWN_GRACE_S", "nan", "a number from 0 to 3600"),
        ("MAX_BODY_MB", "inf", "a number above 0, at most 65536"),
        ("MAX_QUEUE_ROWS", "0", "a whole number of at least 1"),
    ],
)
def test_a_wrong_variable_is_named_with_its_value_and_what_is_allowed(name, text, allowed):
    error = refusal(None, {f"MLSERVE_{name}": text})

    assert f"MLSERVE_{name} is '{text}'" in error.message
    assert allowed in error.message


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('port = "x"', ["port is 'x'", "a whole number"]),
        ('host = ""', ["host is ''"]),
        ("sizing = 1", ["sizing is 1"]),
        ("[sizing]\nm = 1", ['[sizing."m"] is 1']),
        ('[sizing."m.x"]\nthreads = -1', ['[sizing."m.x"]', "threads is -1", "from 0 to 1024"]),
        ('[sizing.m]\ndevice = "tpu"', ["device is 'tpu'"]),
        ('[sizing.m]\nprecision = "int8"', ["precision is 'int8'", "'bf16' or 'fp32'"]),
        ("[sizing.m]\ninline = 3", ["inline is 3", "true or false"]),
        ("port = ", ["is no TOML"]),
    ],
)
def test_a_wrong_value_in_the_file_is_named(toml, text, parts):
    error = refusal(toml(text), {})

    for part in parts:
        assert part in error.message
    assert "server.toml" in error.message


@pytest.mark.parametrize(
    ("text", "hint"), [("prot = 1", "'port'"), ("[sizing.m]\nthread = 1", "'threads'")]
)
def test_an_unknown_name_is_refused_with_the_nearest(toml, text, hint):
    error = refusal(toml(text), {})

    assert "is no setting" in error.message
    assert hint in error.hint


def test_a_missing_file_is_a_sentence(tmp_path):
    assert "does not exist" in refusal(tmp_path / "server.toml", {}).message


def test_a_folder_in_the_place_of_the_file_is_a_sentence(tmp_path):
    assert "cannot be read" in refusal(tmp_path, {}).message


def test_what_is_written_is_read_back(toml):
    settings = Settings(
        host="::",
        models='odd "path" \\ with \x7f and \t',
        max_body_mb=0.5,
        sizing={
            "a.b-c_1": Sizing(threads=2, max_batch=16, max_delay_ms=1e-7, inline=True),
            "gpu": Sizing(device="cuda", precision="bf16"),
        },
    )

    assert load(toml(to_toml(settings)), {}) == settings


def test_reasons_become_comments_whatever_stands_in_them(toml):
    reasons = {"threads": 'two lines\nport = 1\r\x00 # "quoted"', "max_batch": ""}
    settings = Settings(sizing={"m": Sizing(reasons=reasons)})

    text = to_toml(settings)

    assert "two lines port = 1" in text
    assert load(toml(text), {}).sizing["m"] == msgspec.structs.replace(
        settings.sizing["m"], reasons={}
    )


def test_every_setting_says_what_it_is():
    for field in msgspec.inspect.type_info(Settings).fields:
        if field.name != "sizing":
            assert field.type.extra_json_schema["description"]
