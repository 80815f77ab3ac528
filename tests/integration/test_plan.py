"""`mlserve plan` with a real package, its real server and a real load."""

import json
import tomllib

import pytest
from typer.testing import CliRunner

from mlserve_cli.bench.load import ClosedLoop
from mlserve_cli.cli.main import app
from mlserve_cli.emit.folder import emit
from mlserve_cli.errors import MlserveError, StartupError
from mlserve_cli.package.progress import Silent
from mlserve_cli.pipeline import serving
from mlserve_cli.pipeline.plan import AIR
from mlserve_cli.pipeline.trial_server import TrialServer
from mlserve_cli.runtime.settings import Settings
from mlserve_cli.runtime.sizing import Sizing

QUICK = ["--seconds", "0.5", "--trials", "1"]

pytestmark = pytest.mark.clock


@pytest.fixture
def place(iris_package):
    """The place of a package of the name iris."""
    return iris_package().path


def plan(*arguments):
    return CliRunner().invoke(app, ["plan", *map(str, arguments)], standalone_mode=False)


def test_a_plan_is_written_with_its_reasons_and_held_against_a_server(place, tmp_path):
    file = tmp_path / "server.toml"
    done = plan(
        place, "--rate", 50, "--p99-ms", 2000, "-o", file, *QUICK, "--json",
        "--price-per-hour", 1,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["met"]
    assert found["predicted"]["throughput_per_s"] == pytest.approx(50)
    assert found["observed"]["p99_ms"] <= 2000
    assert found["observed"]["peak_mib"] > 10
    cost = 1e6 / (3600 * found["observed"]["throughput_per_s"])
    assert found["cost_per_million_rows"] == pytest.approx(cost)
    written = file.read_text()
    numbers = tomllib.loads(written)["sizing"]["iris"]
    assert numbers["threads"] == found["sizing"]["threads"]
    assert "a row alone takes" in written


def test_what_cannot_be_kept_ends_with_1_and_says_what_would(place, tmp_path):
    file = tmp_path / "server.toml"
    done = plan(place, "--rate", 20, "--p99-ms", 0.01, "-o", file, *QUICK, "--json", "--no-verify")
    found = json.loads(done.stdout)
    assert not found["met"]
    assert "as fast" in found["remedies"][0]
    assert file.exists()
    assert 1 in (done.return_value, done.exit_code)


@pytest.mark.slow  # some twenty runs under load
def test_as_many_requests_as_possible_leave_the_server_some_air(place, tmp_path):
    file = tmp_path / "server.toml"
    done = plan(
        place, "--max-throughput", "--p99-ms", 1000, "-o", file, *QUICK, "--no-verify",
        "--json",
    )  # fmt: skip
    found = json.loads(done.stdout)
    # On a machine that is too busy no rate may keep even a second; it is never promised then.
    highest = found["highest_rate_per_s"]
    assert found["predicted"]["rate_per_s"] == pytest.approx(AIR * highest)
    assert found["met"] == (highest > 0)


def test_a_file_that_is_there_is_kept_and_with_force_so_are_its_other_settings(place, tmp_path):
    file = tmp_path / "server.toml"
    file.write_text('max_queue_rows = 7\n[sizing."other"]\nthreads = 1\n')
    done = plan(place, "--rate", 20, "--p99-ms", 2000, "-o", file, *QUICK)
    assert isinstance(done.exception, MlserveError)
    assert "exists already" in done.exception.message
    done = plan(place, "--rate", 20, "--p99-ms", 2000, "-o", file, *QUICK, "--no-verify", "--force")
    assert done.exit_code == 0, done.output
    found = tomllib.loads(file.read_text())
    assert found["max_queue_rows"] == 7
    assert set(found["sizing"]) == {"other", "iris"}


@pytest.mark.parametrize(
    "arguments", [["--rate", "5"], ["--p99-ms", "5"], ["--rate", "5", "--max-throughput"]]
)
def test_an_objective_is_a_rate_with_its_limit_or_as_many_as_can_be(place, arguments):
    done = plan(place, *arguments)
    assert type(done.exception).__name__ == "BadParameter"


def test_a_server_runs_with_the_numbers_of_the_file_and_counts_its_work(iris_package):
    package = iris_package()
    wanted = Sizing(threads=1, instances=2, max_batch=3, max_delay_ms=1.5)
    settings = Settings(sizing={package.manifest.name: wanted})
    with TrialServer(package, settings, rows=2) as server, server.generator() as generator:
        assert server.sizing.max_batch == 3
        assert server.sizing.instances == 2
        before = server.work()
        run = generator.run(ClosedLoop(2), seconds=0.3, warm_up_s=0.0)
        done = server.work().since(before)
        assert run.failures == 0
        assert done.requests >= run.answered > 0
        assert done.rows == 2 * done.requests
        assert server.peak_mib() > 10


def test_a_server_folder_takes_no_settings_from_elsewhere(tmp_path, place):
    folder = tmp_path / "server"
    emit([place], folder, progress=Silent())
    with pytest.raises(MlserveError, match=r"server folder.*server\.toml"):
        serving.configuration(folder, {}, tmp_path / "server.toml")


def test_a_server_that_is_not_ready_in_time_is_ended_and_said(iris_package):
    package = iris_package()
    settings = Settings(sizing={package.manifest.name: Sizing()})
    server = TrialServer(package, settings, patience_s=0.01)
    with pytest.raises(StartupError, match=r"not ready within 0\.01 s"), server:
        pytest.fail("it is not ready")


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_measured(tmp_path):
    from mlserve_cli.cli.plan import _before
    from mlserve_cli.errors import PackageError

    with pytest.raises(PackageError, match="does not exist") as caught:
        _before(tmp_path / "none" / "server.toml", force=False)
    assert "folder" in caught.value.hint
