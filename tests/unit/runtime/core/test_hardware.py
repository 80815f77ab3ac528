import pytest

from mlserve_cli.runtime.hardware import Gpu, cpu_flags, detect

X86 = "processor\t: 0\nmodel name\t: Some Xeon\nflags\t\t: fpu avx2 avx512f avx512_vnni amx_int8\n"
ARM = (
    "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\nFeatures\t: fp asimddp i8mm bf16\n"
)
MEMORY = "MemTotal:        8388608 kB\nMemFree:  1 kB\n"
TWO_GPUS = "0, GPU-aaa, NVIDIA H200, 143771\n1, GPU-bbb, NVIDIA L4, 23034\n"


@pytest.fixture
def machine(tmp_path):
    """Write a fake root and detect it: paths with '/' as keys."""

    def make(files=(), *, cpus=4, **options):
        written = {"proc/cpuinfo": X86, "proc/meminfo": MEMORY, "proc/self/cgroup": "0::/\n"}
        for name, text in (written | dict(files)).items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        options.setdefault("list_gpus", lambda: "")
        options.setdefault("environ", {})
        return detect(tmp_path, affinity=frozenset(range(cpus)), **options)

    return make


def siblings(pairs):
    return {
        f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list": f"{first},{second}\n"
        for first, second in pairs
        for cpu in (first, second)
    }


def test_a_machine_without_limits_is_used_whole(machine):
    found = machine()

    assert found.cpu_name == "Some Xeon"
    assert (found.logical_cpus, found.physical_cores, found.cpu_quota) == (4, 4, None)
    assert found.memory_bytes == 8 << 30
    assert found.isa == ("avx2", "avx512f", "avx512_vnni", "amx_int8")
    assert found.numa_nodes == 1
    assert found.gpus == ()


def test_hyper_threads_of_one_core_count_once(machine):
    found = machine(siblings([(0, 4), (1, 5), (2, 6), (3, 7)]), cpus=8)

    assert (found.logical_cpus, found.physical_cores) == (8, 4)


def test_the_affinity_decides_which_cores_are_counted(machine):
    found = machine(siblings([(0, 1), (2, 3)]), cpus=2)

    assert (found.logical_cpus, found.physical_cores) == (2, 1)


@pytest.mark.parametrize(
    ("text", "quota", "cores"),
    [
        ("200000 100000\n", 2.0, 2),
        ("50000 100000\n", 0.5, 1),
        ("350000 100000\n", 3.5, 3),
        ("max 100000\n", None, 4),
        ("nonsense\n", None, 4),
        ("100000 0\n", None, 4),
    ],
)
def test_a_quota_of_cgroup_v2_limits_the_cores(machine, text, quota, cores):
    found = machine({"sys/fs/cgroup/cpu.max": text})

    assert (found.cpu_quota, found.physical_cores) == (quota, cores)


def test_the_tightest_limit_above_a_process_holds(machine):
    found = machine(
        {
            "proc/self/cgroup": "0::/pod/container\n",
            "sys/fs/cgroup/pod/cpu.max": "100000 100000\n",
            "sys/fs/cgroup/pod/container/cpu.max": "300000 100000\n",
            "sys/fs/cgroup/pod/memory.max": "1073741824\n",
            "sys/fs/cgroup/pod/container/memory.max": "max\n",
        }
    )

    assert found.cpu_quota == 1.0
    assert found.memory_bytes == 1 << 30


def test_limits_of_cgroup_v1_are_read_from_each_controller(machine):
    found = machine(
        {
            "proc/self/cgroup": "5:cpu,cpuacct:/docker/a\n3:memory:/docker/a\n1:name=systemd:/\n",
            "sys/fs/cgroup/cpu,cpuacct/docker/a/cpu.cfs_quota_us": "150000\n",
            "sys/fs/cgroup/cpu,cpuacct/docker/a/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/docker/a/memory.limit_in_bytes": "536870912\n",
        }
    )

    assert found.cpu_quota == 1.5
    assert found.memory_bytes == 512 << 20


def test_a_v1_container_that_sees_only_its_own_cgroup_reads_it_at_the_top(machine):
    found = machine(
        {
            "proc/self/cgroup": "5:cpu:/docker/not-mounted-here\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        }
    )

    assert found.cpu_quota == 2.0


def test_no_quota_is_minus_one_in_cgroup_v1(machine):
    found = machine(
        {
            "proc/self/cgroup": "5:cpu:/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        }
    )

    assert found.cpu_quota is None


def test_a_memory_limit_above_the_machine_changes_nothing(machine):
    found = machine({"sys/fs/cgroup/memory.max": "9223372036854771712\n"})

    assert found.memory_bytes == 8 << 30


def test_an_arm_cpu_has_its_extensions_under_names_of_their_own(machine):
    found = machine({"proc/cpuinfo": ARM})

    assert found.isa == ("neon_dotprod", "neon_i8mm", "neon_bf16")
    assert "0xd40" in found.cpu_name


def test_numa_nodes_are_counted(machine):
    nodes = {f"sys/devices/system/node/node{index}/cpulist": "" for index in (0, 1, 10)}

    assert machine(nodes).numa_nodes == 3


def test_nothing_readable_still_gives_one_core(tmp_path):
    found = detect(tmp_path / "nothing", affinity=frozenset(), environ={}, list_gpus=lambda: "")

    assert found.physical_cores == 1
    assert found.memory_bytes == 0
    assert found.cpu_name == "unknown CPU"


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        (None, ["NVIDIA H200", "NVIDIA L4"]),
        ("", []),
        ("-1", []),
        ("1", ["NVIDIA L4"]),
        ("1,0", ["NVIDIA L4", "NVIDIA H200"]),
        ("GPU-bb", ["NVIDIA L4"]),
        ("0,7,1", ["NVIDIA H200"]),  # CUDA stops at the first that it does not know
    ],
)
def test_only_the_visible_gpus_are_found_and_numbered_anew(machine, visible, names):
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    found = machine(environ=environ, list_gpus=lambda: TWO_GPUS).gpus

    assert [gpu.name for gpu in found] == names
    assert [gpu.index for gpu in found] == list(range(len(names)))


def test_a_gpu_says_what_others_left_of_its_memory(machine):
    line = "0, GPU-aaa, NVIDIA H200, 143771, 140000\n1, GPU-bbb, NVIDIA L4, 23034, [N/A]\n"
    found = machine(list_gpus=lambda: line).gpus
    assert [gpu.free_bytes for gpu in found] == [140000 << 20, 0]


def test_the_flags_of_a_processor_are_all_that_it_says(tmp_path):
    assert cpu_flags(tmp_path) == frozenset()
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("flags\t\t: fpu avx2 amx_tile\n")
    assert cpu_flags(tmp_path) == {"fpu", "avx2", "amx_tile"}


def test_a_gpu_has_its_memory_in_bytes(machine):
    found = machine(list_gpus=lambda: TWO_GPUS + "garbage\n2, GPU-ccc, Odd, [N/A]\n").gpus

    assert found == (Gpu(0, "NVIDIA H200", 143771 << 20), Gpu(1, "NVIDIA L4", 23034 << 20))


def test_this_machine_is_detected():
    found = detect()

    assert 1 <= found.physical_cores <= found.logical_cpus
    assert found.memory_bytes > 0
