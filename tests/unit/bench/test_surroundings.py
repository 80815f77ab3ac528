"""What makes figures doubtful, on machines that are folders."""

import pytest

from mlserve_cli.bench.surroundings import Surroundings
from mlserve_cli.runtime.hardware import Hardware


@pytest.fixture
def machine(tmp_path):
    """Write the files that the kernel would; called again, what they are later."""

    def write(*, ticks=(100, 0, 100, 800, 0, 0, 0, 0), mhz=2500.0, flags="fpu", cpu_stat=""):
        (tmp_path / "proc").mkdir(exist_ok=True)
        (tmp_path / "sys/fs/cgroup").mkdir(parents=True, exist_ok=True)
        (tmp_path / "proc/stat").write_text(f"cpu  {' '.join(map(str, ticks))} 0 0\ncpu0 1\n")
        (tmp_path / "proc/cpuinfo").write_text(f"flags\t: {flags}\ncpu MHz\t\t: {mhz}\n")
        (tmp_path / "sys/fs/cgroup/cpu.stat").write_text(cpu_stat)
        return tmp_path

    return write


def hardware(**fields):
    values = {
        "cpu_name": "test",
        "logical_cpus": 10_000,  # so that this machine's own load is no doubt
        "physical_cores": 2,
        "cpu_quota": None,
        "memory_bytes": 1,
        "numa_nodes": 1,
        "isa": (),
    }
    return Hardware(**(values | fields))


def test_a_quiet_machine_of_its_own_leaves_no_doubt(machine):
    surroundings = Surroundings(hardware(), root=machine())
    machine(ticks=(200, 0, 200, 1600, 0, 0, 0, 0))
    assert surroundings.doubts() == []


def test_time_given_to_others_is_a_doubt(machine):
    surroundings = Surroundings(hardware(), root=machine())
    machine(ticks=(150, 0, 100, 800, 0, 0, 0, 50))
    assert surroundings.doubts() == ["the hypervisor gave 50% of the time to others"]


def test_a_quota_and_how_often_it_was_used_up_are_doubts(machine):
    before = "nr_periods 100\nnr_throttled 5\n"
    surroundings = Surroundings(hardware(cpu_quota=0.5), root=machine(cpu_stat=before))
    machine(cpu_stat="nr_periods 200\nnr_throttled 30\n")
    quota, stopped = surroundings.doubts()
    assert quota.startswith("a quota of 0.5 of")
    assert stopped == "the quota stopped this container in 25% of periods"


def test_a_changing_clock_is_a_doubt(machine):
    surroundings = Surroundings(hardware(), root=machine(mhz=3500))
    machine(mhz=1200)
    assert surroundings.doubts() == ["the CPU's clock went from 1,200 to 3,500 MHz"]


def test_a_virtual_machine_is_a_doubt(machine):
    found = Surroundings(hardware(), root=machine(flags="fpu hypervisor avx")).doubts()
    assert found == ["this is a virtual machine, whose neighbours are not seen"]


def test_a_machine_that_tells_nothing_is_no_error(tmp_path):
    assert Surroundings(hardware(), root=tmp_path).doubts() == []


def test_more_work_than_cores_is_a_doubt(machine, monkeypatch):
    monkeypatch.setattr("os.getloadavg", lambda: (9.0, 0.0, 0.0))
    (found,) = Surroundings(hardware(logical_cpus=2), root=machine()).doubts()
    assert "other work (load 9.0 on 2 CPUs)" in found
