"""What this process may really use: cores, quotas, memory, instruction sets, GPUs.

Affinity masks and cgroup limits decide, not what the machine has: a container with half a core on
a 64-core host sizes itself for half a core.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec

_X86 = (
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
)
_ARM = {"asimddp": "neon_dotprod", "i8mm": "neon_i8mm", "bf16": "neon_bf16", "sve": "sve"}


class Gpu(msgspec.Struct, frozen=True):
    """One GPU that this process may use; `free_bytes` is what others left of its memory."""

    index: int
    name: str
    memory_bytes: int
    free_bytes: int = 0


class Hardware(msgspec.Struct, frozen=True, kw_only=True):
    """What this process may use.

    logical_cpus: by affinity. physical_cores: of those, hyper-threads counted once, and no more
    than the quota. cpu_quota: in cores, None without a limit. memory_bytes: the smaller of the
    machine's memory and the cgroup's limit. isa: what matters for arithmetic, by the names of
    /proc/cpuinfo (NEON extensions under names of their own).
    """

    cpu_name: str
    logical_cpus: int
    physical_cores: int
    cpu_quota: float | None
    memory_bytes: int
    numa_nodes: int
    isa: tuple[str, ...]
    gpus: tuple[Gpu, ...] = ()


def detect(
    root: Path = Path("/"),
    *,
    affinity: frozenset[int] | None = None,
    environ: Mapping[str, str] = os.environ,
    list_gpus: Callable[[], str] | None = None,
) -> Hardware:
    """Read the machine below `root`; the other arguments stand in for it in tests."""
    cpus = _affinity() if affinity is None else affinity
    info = _cpuinfo(root)
    quota = _cpu_quota(root)
    cores = len({_core(root, cpu) for cpu in cpus}) or 1
    if quota is not None:
        cores = min(cores, max(1, int(quota)))
    return Hardware(
        cpu_name=_cpu_name(info),
        logical_cpus=len(cpus),
        physical_cores=cores,
        cpu_quota=quota,
        memory_bytes=_memory(root),
        numa_nodes=len(list((root / "sys/devices/system/node").glob("node[0-9]*"))) or 1,
        isa=_isa(info),
        gpus=_gpus(environ, list_gpus or _nvidia_smi),
    )


def _affinity() -> frozenset[int]:
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _cpuinfo(root: Path) -> dict[str, str]:
    """The first processor's lines, by name."""
    facts: dict[str, str] = {}
    for line in _text(root / "proc/cpuinfo").splitlines():
        name, separator, value = line.partition(":")
        if separator:
            facts.setdefault(name.strip(), value.strip())
    return facts


def cpu_flags(root: Path = Path("/")) -> frozenset[str]:
    """All that /proc/cpuinfo says the processor can; empty where there is no such file."""
    info = _cpuinfo(root)
    return frozenset(f"{info.get('flags', '')} {info.get('Features', '')}".split())


def _cpu_name(info: Mapping[str, str]) -> str:
    if "CPU part" in info:  # 64-bit ARM kernels print numbers and no name
        return f"ARM CPU, implementer {info.get('CPU implementer', '?')}, part {info['CPU part']}"
    return info.get("model name") or info.get("Processor") or "unknown CPU"


def _core(root: Path, cpu: int) -> str:
    """A name that hyper-threads of one core share."""
    topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
    return _text(topology / "thread_siblings_list") or f"cpu{cpu}"


def _isa(info: Mapping[str, str]) -> tuple[str, ...]:
    flags = set(info.get("flags", "").split())
    features = set(info.get("Features", "").split())
    return (
        *(name for name in _X86 if name in flags),
        *(ours for theirs, ours in _ARM.items() if theirs in features),
    )


def _cgroups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's cgroup, v2 or v1, from its own up to the root."""
    base = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines() or ["0::/"]:
        _, names, place = (*line.split(":", 2), "", "")[:3]
        if names == "":
            top = base
        elif controller in names.split(","):
            top = base / names if (base / names).is_dir() else base / controller
        else:
            continue
        folder = top / place.strip("/")
        while folder != top and folder.is_relative_to(top):
            yield folder
            folder = folder.parent
        yield top


def _cpu_quota(root: Path) -> float | None:
    """The smallest CPU limit above this process, in cores (cgroup v2 cpu.max; v1 CFS quota)."""
    limits = []
    for folder in _cgroups(root, "cpu"):
        quota, _, period = _text(folder / "cpu.max").partition(" ")
        if not quota:
            quota = _text(folder / "cpu.cfs_quota_us")
            period = _text(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period) > 0:
            limits.append(int(quota) / int(period))
    return min(limits, default=None)


def _memory(root: Path) -> int:
    """The smaller of the machine's memory and every cgroup limit above this process, in bytes."""
    lines = _text(root / "proc/meminfo").splitlines()
    limits = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal:")]
    texts = (
        _text(folder / name)
        for folder in _cgroups(root, "memory")
        for name in ("memory.max", "memory.limit_in_bytes")
    )
    limits += [int(text) for text in texts if text.isdigit()]
    return min(limits, default=0)


def _gpus(environ: Mapping[str, str], list_gpus: Callable[[], str]) -> tuple[Gpu, ...]:
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return ()
    found: list[tuple[str, Gpu]] = []
    for line in list_gpus().splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) in (4, 5) and parts[0].isdigit() and parts[3].isdigit():
            index, identity, name, memory_mib, *free_mib = parts
            free = int(free_mib[0]) << 20 if free_mib and free_mib[0].isdigit() else 0
            found.append((identity, Gpu(int(index), name, int(memory_mib) << 20, free)))
    if visible is None:
        return tuple(gpu for _, gpu in found)
    kept: list[Gpu] = []
    for wish in visible.split(","):
        gpu = _wished(wish.strip(), found)
        if gpu is None:
            break  # as CUDA does: what follows an unknown one is not visible either
        # CUDA numbers the visible devices anew, in the order of the list.
        kept.append(msgspec.structs.replace(gpu, index=len(kept)))
    return tuple(kept)


def _wished(wish: str, found: list[tuple[str, Gpu]]) -> Gpu | None:
    """The GPU of that number, or whose identity begins so."""
    for identity, gpu in found:
        if wish == str(gpu.index) or (wish.startswith("GPU-") and identity.startswith(wish)):
            return gpu
    return None


def _nvidia_smi() -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    try:
        done = subprocess.run(  # noqa: S603  a fixed program with fixed arguments
            [
                program,
                "--query-gpu=index,uuid,name,memory.total,memory.free",
                "--format=csv,noheader,nounits",
            ],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
