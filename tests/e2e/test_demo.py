"""The digits story runs from training to an answered request."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_digits_story_ends_with_a_table_and_an_answer(tmp_path):
    import os
    import shutil

    shutil.copytree(
        ROOT / "samples" / "digits",
        tmp_path / "digits",
        ignore=shutil.ignore_patterns("*.safetensors", "__pycache__"),
    )
    scripts = Path(sys.executable).parent

    done = subprocess.run(
        [sys.executable, "digits/story.py", "--quick", "--output", "out"],
        cwd=tmp_path,
        env=os.environ | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("digits-int8", "digits-pruned", "digits-student", "digits-pruned-int8"):
        assert name in done.stdout
    assert '"label":' in done.stdout
    assert "mlserve up" in done.stdout.splitlines()[-1]
    assert not list((tmp_path / "out").glob(".*")), "something half written was left"
