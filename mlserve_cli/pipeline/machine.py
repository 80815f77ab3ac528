"""What `mlserve doctor` says: what this machine is, what runs well on it, what is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
from dataclasses import dataclass

from mlserve_cli.pipeline import gemm
from mlserve_cli.runtime import hardware
from mlserve_cli.runtime.hardware import Hardware


@dataclass(frozen=True, slots=True)
class Finding:
    """An engine or precision: whether it runs here, and what is known of it."""

    name: str
    runs: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Extra:
    """An optional part of mlserve: what it is for and which of its libraries are missing."""

    name: str
    purpose: str
    missing: tuple[str, ...]

    @property
    def install(self) -> str:
        """The line that installs it."""
        return f"pip install 'mlserve-cli[{self.name}]'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Everything that doctor found."""

    python: str
    system: str
    hardware: Hardware
    speed: gemm.GemmSpeed
    engines: tuple[Finding, ...]
    precisions: tuple[Finding, ...]
    extras: tuple[Extra, ...]


_EXTRAS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "torch",
        "export, prune, distill and serve PyTorch models",
        ("torch", "onnxscript", "safetensors", "torch_pruning"),
    ),
    ("sklearn", "export scikit-learn estimators and pipelines", ("sklearn", "skl2onnx")),
    (
        "boosting",
        "export models of XGBoost, LightGBM and CatBoost",
        ("xgboost", "lightgbm", "catboost", "onnxmltools", "pandas"),
    ),
    ("hf", "export local Hugging Face folders", ("transformers", "torch", "tokenizers")),
    ("image", "serve models that take pictures", ("PIL",)),
    ("text", "serve models that take text through a tokenizer", ("tokenizers",)),
    (
        "openvino",
        "run models in bf16 or int8 through OpenVINO, often several times as fast on Intel CPUs",
        ("onnxruntime_ep_openvino",),
    ),
    ("nncf", "quantize with NNCF's algorithms", ("nncf",)),
    (
        "neural-compressor",
        "quantize with Neural Compressor's torch side",
        ("torch", "neural_compressor.torch"),
    ),
    (
        "batch",
        "predict from and to Parquet, Arrow and what lies behind a URL",
        ("pyarrow", "fsspec"),
    ),
    ("s3", "predict from and to s3:// URLs", ("s3fs",)),
    ("grpc", "answer gRPC: Open Inference Protocol and TensorFlow Serving", ("grpc",)),
    ("loadgen", "run MLPerf's scenarios in bench", ("mlperf_loadgen",)),
    ("otel", "send spans of requests to a collector", ("opentelemetry.sdk",)),
)


def examine() -> Machine:
    """Look at this machine; takes about a second, most of it the measurement."""
    found = hardware.detect()
    speed = gemm.measure()
    return Machine(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        hardware=found,
        speed=speed,
        engines=engines(found),
        precisions=precisions(found, speed),
        extras=extras(),
    )


def extras() -> tuple[Extra, ...]:
    """Every extra, with the modules of it that are not installed; nothing is imported."""
    return tuple(
        Extra(name, purpose, tuple(module for module in modules if not _installed(module)))
        for name, purpose, modules in _EXTRAS
    )


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that it would be in
        return False


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


def engines(found: Hardware) -> tuple[Finding, ...]:
    """What can execute a model here, and what would be needed."""
    import onnxruntime as ort

    providers = ort.get_available_providers()
    local = [name for name in providers if name != "AzureExecutionProvider"]  # calls a cloud
    shown = ", ".join(name.removesuffix("ExecutionProvider") for name in local)
    engines = [Finding("onnxruntime", True, f"{_version('onnxruntime')}, providers {shown}")]
    if _installed("onnxruntime_ep_openvino"):
        detail = f"{_version('onnxruntime-ep-openvino')}, inside ONNX Runtime"
        engines.append(Finding("openvino", True, detail))
    else:
        engines.append(Finding("openvino", False, "not installed"))
    if _installed("torch"):
        detail = f"{_version('torch')}, for training, for export, and as an engine of its own"
        engines.append(Finding("torch", True, detail))
    if found.gpus:
        cuda = "CUDAExecutionProvider" in providers
        names = ", ".join(gpu.name for gpu in found.gpus)
        detail = names if cuda else f"{names}, but this ONNX Runtime has no CUDA: onnxruntime-gpu"
        engines.append(Finding("onnxruntime on CUDA", cuda, detail))
    return tuple(engines)


_BF16 = ("amx_bf16", "avx512_bf16")
_INT8 = ("amx_int8", "avx512_vnni", "avx_vnni", "neon_i8mm", "neon_dotprod")


def precisions(found: Hardware, speed: gemm.GemmSpeed) -> tuple[Finding, ...]:
    """What fp32, int8 and bf16 are worth on this machine."""
    has = [name for name in _INT8 if name in found.isa]
    int8 = (
        f"u8s8 runs {speed.ratio:.1f} times as fast as fp32 here "
        f"({speed.int8_gops:.0f} against {speed.fp32_gflops:.0f} GOPS, one thread, bare products)"
    )
    if not has and platform.machine() in ("x86_64", "AMD64"):
        int8 += "; without VNNI its sums saturate, so measure the accuracy on this very CPU"
    findings = [
        Finding("fp32", True, f"{speed.fp32_gflops:.0f} GFLOPS on one thread"),
        # Under 1.2 the rest of a model eats what the products gain.
        Finding("int8", speed.ratio >= 1.2, int8),
    ]
    bf16 = [name for name in _BF16 if name in found.isa]
    if not bf16:
        findings.append(Finding("bf16", False, "this CPU has no instructions for it"))
    elif _installed("onnxruntime_ep_openvino"):
        detail = f"through the engine openvino ({', '.join(bf16)}); ONNX Runtime alone has none"
        findings.append(Finding("bf16", True, detail))
    else:
        findings.append(Finding("bf16", False, f"the CPU has {', '.join(bf16)}; needs 'openvino'"))
    return tuple(findings)
