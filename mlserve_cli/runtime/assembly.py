"""From a package in memory to a model that takes requests: its batcher, with a worker each."""

from __future__ import annotations

from .batch import Promise
from .batcher import Batcher
from .engines import ENGINES
from .engines.owned import Owned
from .loading import Prepared
from .monitoring.metrics import ModelMetrics
from .padding import Padding
from .registry import LoadedModel
from .repository import Found
from .settings import Settings
from .share import Cores
from .worker import InlineWorker, ThreadWorker, Worker


def assemble(
    found: Found, prepared: Prepared, *, settings: Settings, metrics: ModelMetrics, cores: Cores
) -> LoadedModel:
    """The model, which takes no traffic yet. Called on the event loop that it will live on.

    cores: what the models of the server share.
    """
    manifest, chosen = found.manifest, prepared.sizing
    batcher = Batcher(
        _workers(
            prepared,
            f"{manifest.name}-{manifest.version}",
            is_ours=manifest.engine in ENGINES,
        ),
        max_batch=manifest.fixed_batch
        or min(chosen.max_batch, manifest.batch.max_batch or chosen.max_batch),
        max_queue_rows=settings.max_queue_rows,
        max_delay_ms=chosen.max_delay_ms,
        max_queue_ms=settings.max_queue_ms,
        merge=manifest.fixed_batch is None and manifest.batch.invariant,
        observer=metrics,
        promise=Promise.of(manifest.inputs, manifest.outputs),
        padding=Padding.of(manifest),
        # Inline models take turns with everything on the loop; a GPU is no core.
        share=None
        if chosen.inline or chosen.device != "cpu"
        else cores.share(threads=chosen.threads, weight=chosen.share),
    )
    metrics.watch(batcher)
    for engine in prepared.engines:
        if hasattr(engine, "report"):  # set only now: what was proven and measured does not count
            engine.report = metrics.report
    return LoadedModel(
        manifest=manifest,
        path=found.path,
        processor=prepared.processor,
        sizing=chosen,
        batcher=batcher,
        metrics=metrics,
        engines=prepared.engines,
    )


def _workers(prepared: Prepared, name: str, *, is_ours: bool) -> list[Worker]:
    """A worker for each instance. Called on the event loop that they report to."""
    workers: list[Worker] = []
    engines = prepared.engines if is_ours else tuple(Owned(each) for each in prepared.engines)
    for instance in range(prepared.sizing.instances):
        engine = engines[instance % len(engines)]
        if prepared.sizing.inline:
            workers.append(InlineWorker(engine))
        else:
            workers.append(ThreadWorker(engine, name=f"{name}-{instance}"))
    return workers
