"""`mlserve bench PKG…` with real tiny packages: what it writes and prints, never how fast."""

import csv
import json
import re
import shutil
import subprocess

import pytest
from typer.testing import CliRunner

from mlserve_cli.report.colours import COLOURS
from tests.integration.protocols.conftest import doubling

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUICK = ("--batch", "1,4", "--seconds", "0.05", "--threads", "1")


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packages")
    doubling(folder, "1")
    return folder / "dbl" / "1"


@pytest.fixture(scope="module")
def written(package, tmp_path_factory):
    """One run that writes all there is, and is only looked at."""
    folder = tmp_path_factory.mktemp("written")
    document = mlserve(
        *("bench", package, package, *QUICK, "--engine", "onnxruntime,torch", "--json"),
        *("--profile", "--csv", folder / "runs.csv", "--html", folder / "report.html"),
    ).stdout
    (folder / "old.json").write_text(document)
    return folder


def mlserve(*arguments, status=0):
    from mlserve_cli.cli.main import app

    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == status, result.output
    return result


def test_the_document_says_what_ran_and_what_could_not(written):
    document = json.loads((written / "old.json").read_text())
    assert (document["schema"], document["kind"]) == (1, "engines")
    assert document["asked"]["threads"] == [1]
    one, other = document["packages"]
    assert one["engine"] == other["engine"] == "onnxruntime"
    assert {each["label"] for each in document["excluded"]} == {"1, torch", "1 (2), torch"}
    assert all(each["reason"] for each in document["excluded"])
    batch = other["batches"][1]
    assert batch["batch"] == 4
    assert batch["p50_low_ms"] <= batch["p50_ms"] <= batch["p50_high_ms"] <= batch["p99_high_ms"]
    assert batch["cpu_s_per_row"] > 0
    assert batch["against_first"]["verdict"] in ("slower", "faster", "no difference")
    assert document["libraries"]["onnxruntime"]
    assert one["golden_difference"] == 0.0


def test_memory_and_waking_up_are_those_of_a_process_of_its_own(written):
    package = json.loads((written / "old.json").read_text())["packages"][0]
    alone = package["alone"]
    assert 20e6 < alone["base_bytes"] <= alone["loaded_bytes"] <= alone["peak_bytes"] < 1e9
    assert package["batches"][0]["peak_bytes"] <= alone["peak_bytes"]
    assert alone["first_inference_ms"] > 0
    assert alone["load_ms"] > 0


def test_the_profile_names_the_nodes(written):
    profile = json.loads((written / "old.json").read_text())["packages"][0]["profile"]
    assert [node["operator"] for node in profile["nodes"]] == ["Add"]
    assert profile["runs"] == 50


def test_the_csv_has_a_line_for_each_package_and_batch(written):
    with (written / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["label"], row["batch"]) for row in rows] == [
        ("1, onnxruntime", "1"),
        ("1, onnxruntime", "4"),
        ("1 (2), onnxruntime", "1"),
        ("1 (2), onnxruntime", "4"),
    ]
    assert all(float(row["p90_ms"]) >= float(row["p50_ms"]) > 0 for row in rows)
    assert rows[0]["speed_up"] == ""
    assert float(rows[2]["speed_up"]) > 0


def test_the_table_names_what_was_left_out(package):
    result = mlserve("bench", package, *QUICK, "--engine", "onnxruntime,torch")
    assert "left out: 1, torch: " in result.stdout
    assert "peak memory" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--precision", "int8"), "'int8' is none of fp32, bf16"),
        (("--threads", "1,x"), "'x' is no number of threads"),
        (("--threads", "9999"), "are more than the"),
        (("--markdown", "x.md"), "it is of a comparison"),
        (("--accuracy",), "it is of LoadGen's scenarios"),
    ],
)
def test_what_means_nothing_is_a_usage_error(package, arguments, said):
    assert said in mlserve("bench", package, *arguments, status=2).output.replace("\n", " ")


def test_an_engine_that_is_none_is_named(package):
    from mlserve_cli.cli.main import app

    result = CliRunner().invoke(app, ["bench", str(package), "--engine", "onyx", *QUICK])
    assert result.exit_code == 1
    assert "'onyx' is no engine" in result.exception.message


def test_an_old_report_is_measured_again_and_a_regression_ends_in_1(package, written, tmp_path):
    old = json.loads(mlserve("bench", package, *QUICK, "--json").stdout)
    for factor, status, mark in ((100.0, 0, "✅"), (0.001, 1, "❌")):
        for batch in old["packages"][0]["batches"]:
            batch |= {name: batch[name] * factor for name in batch if name.endswith("_ms")}
        path, summary = tmp_path / "old.json", tmp_path / "summary.md"
        path.write_text(json.dumps(old))
        result = mlserve("bench", "--compare", path, "--markdown", summary, status=status)
        assert summary.read_text().startswith(f"### {mark} mlserve bench: ")
        assert ("measured a second time" in result.stderr) == (status == 1)
    assert "**slower**" in summary.read_text()


def test_a_comparison_on_other_hardware_says_so_and_ends_in_0(package, written, tmp_path):
    old = json.loads((written / "old.json").read_text())
    old["hardware"]["cpu_name"] = "something else"
    old["asked"] |= {"paths": [str(package)], "engines": []}
    path = tmp_path / "old.json"
    path.write_text(json.dumps(old))
    result = mlserve("bench", "--compare", path)
    assert "no verdict, since the hardware is another" in result.stdout


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed here")
def test_a_browser_without_network_draws_every_plot_of_the_page(written, tmp_path):
    from PIL import Image

    text = (written / "report.html").read_text()
    assert not re.search(r"(src|href)=", text)
    plots = re.findall(r'<svg[^>]*aria-label="([^"]*)', text)
    assert len(plots) == 5  # curve, distribution, batch sizes, memory, Pareto
    # A bar of a colour of its own beside each figure says where it lies in the picture.
    marks = iter([(255, 0, 20 * number) for number in range(5)])
    marked = re.sub(
        "<figure>",
        lambda _: '<figure style="border-left:6px solid rgb({},{},{})">'.format(*next(marks)),
        text,
    )
    page = tmp_path / "report.html"
    page.write_text(marked)
    subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", "--hide-scrollbars", "--force-device-scale-factor=1",
            "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}",
            "--blink-settings=preferredColorScheme=1", "--window-size=900,6000",
            f"--screenshot={tmp_path / 'shot.png'}", page.as_uri(),
        ],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    with Image.open(tmp_path / "shot.png") as opened:
        picture = opened.convert("RGB")
    colours = [_rgb(light) for light, _ in COLOURS.values()]
    for number in range(5):
        left, top, bottom = _bar(picture, (255, 0, 20 * number))
        assert bottom - top > 50
        area = picture.crop((left + 8, top, picture.width, bottom))
        drawn = sum(
            count
            for count, pixel in area.getcolors(1 << 24)
            if any(_near(pixel, colour) for colour in colours)
        )
        assert drawn > 40, f"figure {number} ({plots[number]}) has {drawn} pixels of a series"


def _bar(picture, colour):
    """Where the bar of a colour is: its left edge, and its rows from and to."""
    pixels = picture.load()
    for left in range(200):
        rows = [y for y in range(picture.height) if pixels[left, y] == colour]
        if rows:
            return left, rows[0], rows[-1]
    raise AssertionError(f"no figure has the bar {colour}")


def _rgb(written):
    return tuple(int(written[n : n + 2], 16) for n in (1, 3, 5))


def _near(pixel, wanted):
    return all(abs(one - other) <= 30 for one, other in zip(pixel, wanted, strict=True))
