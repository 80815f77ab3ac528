import os
import time

import pytest

from mlserve_cli.package import other_work
from mlserve_cli.package.other_work import OtherWork


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Two CPUs of four are this process's; `tick` lets all of them work and idle."""
    monkeypatch.setattr(other_work, "_cpus", lambda: frozenset({0, 2}))
    monkeypatch.setattr(other_work.hardware, "detect", lambda: type("H", (), {"cpu_quota": None}))
    (tmp_path / "proc").mkdir()
    ticks = {number: [0] * 10 for number in range(4)}

    def tick(work, idle, cpus=range(4)):
        for number in cpus:
            ticks[number][0] += work
            ticks[number][3] += idle
        lines = [f"cpu{number} " + " ".join(map(str, each)) for number, each in ticks.items()]
        (tmp_path / "proc" / "stat").write_text("\n".join(["cpu 1 2 3", *lines, "ctxt 5"]))

    tick(0, 0)
    return tmp_path, tick


def test_other_work_on_these_cpus_is_counted_and_that_of_others_is_not(machine):
    root, tick = machine
    seen = OtherWork(root=root)
    tick(40_000, 60_000)
    assert seen.share() == pytest.approx(0.4, abs=0.01)
    assert "took 40% of the CPUs" in other_work.sentence(seen.share())
    alone = OtherWork(root=root)
    tick(0, 100_000, cpus=(0, 2))
    tick(100_000, 0, cpus=(1, 3))
    assert alone.share() == 0
    assert other_work.sentence(0.0) == ""


def test_the_work_of_this_process_is_its_own(machine):
    root, tick = machine
    seen = OtherWork(root=root)
    until = time.process_time() + 0.1
    while time.process_time() < until:
        sum(range(1000))
    tick(round(0.05 * os.sysconf("SC_CLK_TCK")), 0, cpus=(0, 2))
    assert seen.share() < 0.5


def test_where_nobody_says_nothing_is_claimed(tmp_path):
    assert OtherWork(root=tmp_path).share() == 0
