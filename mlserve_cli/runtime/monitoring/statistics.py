"""What a model did since it was loaded, as Triton's statistics extension prints it.

Counts and nanoseconds. Triton counts each request that shares a batch with the whole batch's
time; here `compute_infer` counts batches, so that its mean is the time of a batch. Copying into
the batch and out of it is a part of that time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..registry import LoadedModel


def statistics(model: LoadedModel) -> dict[str, Any]:
    """One entry of `model_stats`."""
    metrics = model.metrics
    compute_s = sum(seconds for _, seconds in metrics.by_batch.values())
    executions = metrics.executions
    return {
        "name": model.manifest.name,
        "version": model.manifest.version,
        "last_inference": metrics.last_ms,
        "inference_count": metrics.inferences,
        "execution_count": executions,
        "inference_stats": {
            "success": _sum(metrics.successes, metrics.success_s),
            "fail": _sum(metrics.failures, metrics.failure_s),
            "queue": _sum(metrics.successes, metrics.queue_s),
            "compute_input": _sum(executions, 0),
            "compute_infer": _sum(executions, compute_s),
            "compute_output": _sum(executions, 0),
            "cache_hit": _sum(0, 0),
            "cache_miss": _sum(0, 0),
        },
        "response_stats": {},
        "batch_stats": [
            {
                "batch_size": rows,
                "compute_input": _sum(int(count), 0),
                "compute_infer": _sum(int(count), seconds),
                "compute_output": _sum(int(count), 0),
            }
            for rows, (count, seconds) in sorted(metrics.by_batch.items())
        ],
        "memory_usage": [],
    } | (
        {
            # Not of Triton's extension: seconds by step, of a model that is an ensemble.
            "step_stats": [
                {"step": step, "compute_infer": _sum(times.count, times.sum)}
                for step, times in metrics.steps.items()
            ]
        }
        if metrics.steps
        else {}
    )


def _sum(count: int, seconds: float) -> dict[str, int]:
    return {"count": count, "ns": round(seconds * 1e9)}
