"""One run of a job: begin it or go on, write part after part, put the result in its place."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import msgspec

from mlserve_cli.errors import DataError
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Progress
from mlserve_cli.predict import answers, blocks, job, parts, place, sizing, whole
from mlserve_cli.predict.answering import Done, answering, free, record, strict_error
from mlserve_cli.predict.blocks import Plan
from mlserve_cli.predict.choices import Choices, Report
from mlserve_cli.predict.inputs import Inputs
from mlserve_cli.predict.job import MANIFEST, Job, Part, Position
from mlserve_cli.predict.place import Place
from mlserve_cli.runtime import processing
from mlserve_cli.runtime.sizing import Sizing

REJECTS = "_rejects.jsonl"


class Run:
    """One run of a job, from its manifest to its output."""

    def __init__(
        self,
        package: Package,
        found: Inputs,
        where: Place,
        format: str,
        choices: Choices,
        progress: Progress,
        start: float,
    ) -> None:
        self._package = package
        self._inputs = found
        self._place = where
        self._format = format
        self._part_format = format if where.folder else parts.KEPT_AS.get(format, format)
        self._grown: whole.Whole | None = None
        self._choices = choices
        self._progress = progress
        self._start = start
        self._written = 0
        self._landing: Future[None] | None = None
        self._landed: Job | None = None

    def run(self) -> Report:
        """Begin or go on, predict what is left, put the result in its place."""
        if self._is_over():
            return self._report_of_result()
        before = self._unfinished()
        chosen = self._chosen(before)
        wanted = self._wanted(chosen, before)
        if before is None:
            self._place.begin(resume=self._choices.resume, force=self._choices.overwrite)
            self._place.clear()
            self._job = wanted
        else:
            job.check_same(before, wanted, self._place.target)
            self._job = self._whole(before)
        resumed = self._job.rows
        if not self._place.folder and self._format in whole.GROWING:
            self._grown = whole.Whole(self._place.draft(self._whole_name), self._format)
        try:
            if not self._job.done:
                self._predict(chosen)
            self._finish()
        finally:
            if self._grown is not None:
                self._grown.close()
        return Report(
            rows=self._job.rows,
            rejected=self._job.rejected,
            resumed=resumed,
            seconds=time.monotonic() - self._start,
            parts=len(self._job.parts),
            rejects=self._place.rejects() if self._job.rejected else None,
            batch=self._job.batch,
            threads=self._job.threads,
            instances=chosen.instances,
        )

    def _unfinished(self) -> Job | None:
        """The job to go on with; None where one is to begin. Raises `DataError` for neither."""
        target, choices = self._place.target, self._choices
        text = self._place.read(MANIFEST)
        if text is None:
            if self._place.is_taken():
                if self._place.folder:
                    raise DataError(
                        f"'{target}' exists already, and is no folder of answers.",
                        hint="choose another name; --force replaces answers only",
                    )
                if not choices.overwrite:
                    raise DataError(
                        f"'{target}' exists already.", hint="choose another name, or add --force"
                    )
            return None
        if choices.resume:
            self._place.begin(resume=True)
            return job.read(text, target)
        if choices.overwrite:
            return None
        before = job.read(text, target)
        if before.done:
            raise DataError(
                f"'{target}' exists already.", hint="choose another name, or add --force"
            )
        self._place.begin()  # it may not be interrupted at all
        raise DataError(
            f"a job that was interrupted left {len(before.parts)} whole parts of '{target}', "
            f"{before.rows:,} rows.",
            hint="add --resume to go on, or --force to begin again",
        )

    def _is_over(self) -> bool:
        """Whether the job that is to go on ended, and only nobody heard."""
        return (
            self._choices.resume
            and not self._place.folder
            and self._place.read(MANIFEST) is None
            and self._place.is_taken()
        )

    def _report_of_result(self) -> Report:
        """Of a file that is there. Raises `DataError` where it is known to be of another job."""
        text = self._place.recall()
        before = None if text is None else job.read(text, self._place.target)
        if before is not None:
            chosen = self._chosen(before)
            job.check_same(before, self._wanted(chosen, before), self._place.target)
        self._progress.say(f"'{self._place.target}' is whole already: no job is left to go on with")
        rows = before.rows if before else 0
        rejected = before.rejected if before else self._place.rejected()
        return Report(
            rows=rows,
            resumed=rows,
            rejected=rejected,
            seconds=time.monotonic() - self._start,
            parts=len(before.parts) if before else 0,
            rejects=self._place.rejects() if rejected else None,
        )

    def _chosen(self, before: Job | None) -> Sizing:
        return sizing.choose(
            self._package,
            threads=before.threads if before else self._choices.threads,
            batch=before.batch if before else self._choices.batch,
            input_bytes=self._inputs.size_bytes,
        )

    def _wanted(self, chosen: Sizing, before: Job | None) -> Job:
        """The job as this command would begin it; what `before` settled stays settled."""
        manifest, choices = self._package.manifest, self._choices
        bytes_a_row = sizing.row_bytes(self._package)
        batch = before.batch if before else chosen.max_batch
        if before is not None:
            for name, given in (("batch", choices.batch), ("part", choices.part)):
                if given is not None and given != getattr(before, name):
                    raise DataError(
                        f"the job in '{self._place.target}' began with --{_FLAGS[name]} "
                        f"{getattr(before, name)}, and now it is {given}.",
                        hint="leave it out, or begin again with --force",
                    )
        part = choices.part or sizing.part_rows(bytes_a_row)
        # Through a pipe, rows may come slowly: none of them waits for more than a batch.
        block = batch if self._inputs.piped else sizing.block_rows(batch, bytes_a_row, part)
        return Job(
            package=manifest.digest,
            model=manifest.name,
            version=manifest.version,
            inputs=self._inputs.records(),
            kind=self._inputs.kind,
            format=self._format,
            mapping=dict(choices.mapping),
            keep=choices.keep,
            batch=batch,
            block=before.block if before else block,
            part=before.part if before else part,
            threads=before.threads if before else chosen.threads,
        )

    def _whole(self, before: Job) -> Job:
        """The job up to the last part that is there as it was written."""
        if before.done:
            return before
        whole: list[Part] = []
        for each in before.parts:
            if each.file is not None:
                try:
                    with self._place.local(each.file) as path:
                        same = _sha256(path) == each.sha256
                except (DataError, OSError):
                    same = False
                if not same:
                    self._progress.say(f"'{each.file}' is not as it was written: from there again")
                    break
            whole.append(each)
        return msgspec.structs.replace(before, parts=tuple(whole))

    def _predict(self, chosen: Sizing) -> None:
        manifest = free(self._package.manifest)
        processor = processing.build(manifest, self._package.serve)
        plan = Plan(
            manifest=manifest,
            processor=processor,
            mapping=self._job.mapping,
            keep=self._job.keep,
            block=self._job.block,
        )
        try:
            reader = blocks.reader(self._inputs, plan)
            made = answers.find(self._format, manifest, processor)
            total = reader.total()
            self._save()
            self._progress.stage("predicting", total)
            if self._job.rows:
                self._progress.advance(self._job.rows + self._job.rejected)
            with answering(
                self._package,
                reader,
                made,
                chosen,
                self._job.batch,
                self._job.block,
                self._job.next,
                patient=not self._inputs.piped,
            ) as done:
                self._write(done)
            if not self._job.rows and not self._job.rejected:
                raise DataError(f"{self._named()} holds no rows.")
        except BaseException as error:
            if not self._job.parts or self._inputs.piped:
                self._place.abandon()  # nothing that would be worth going on with
            elif isinstance(error, KeyboardInterrupt):
                self._progress.say(
                    f"{len(self._job.parts)} parts are whole, {self._job.rows:,} rows: the same "
                    "command with --resume goes on"
                )
            raise

    def _named(self) -> str:
        files = self._inputs.files
        if not files:
            return self._inputs.spec or "stdin"
        return f"'{files[0].name}'" if len(files) == 1 else f"none of {len(files)} files"

    def _write(self, done: Iterator[Done]) -> None:
        """Part after part."""
        self._landed = self._job
        # A part reaches the disk while the next one is written: a busy disk takes a while.
        with ThreadPoolExecutor(1, "predict-land") as landing:
            try:
                self._landing = landing.submit(self._catch_up, self._job)
                first = next(done, None)
                while first is not None:
                    number = len(self._job.parts)
                    name = f"part-{number:05}{parts.WRITTEN[self._part_format]}"
                    first = self._write_part(name, first, done, landing)
            except BaseException:
                with contextlib.suppress(Exception):  # the first error is the one that counts
                    self._wait_for_landing()
                raise
            self._wait_for_landing()

    def _wait_for_landing(self) -> None:
        """Until the part before is in its place and stands in the manifest, or raise why not."""
        landing, self._landing = self._landing, None
        if landing is None:
            return
        try:
            landing.result()
        except BaseException:
            self._job = self._landed or self._job
            raise
        self._landed = self._job

    def _write_part(
        self, name: str, first: Done, done: Iterator[Done], landing: ThreadPoolExecutor
    ) -> Done | None:
        """Write a part, and let it land; give the block that the next part begins with."""
        rejects: list[bytes] = []
        rows = taken = 0
        item: Done | None = first
        after = Position()
        draft = self._place.draft(name)
        with place.writing(self._place.target), draft.open("wb") as file:
            writer = parts.part(self._part_format, file, self._job.columns)
            while item is not None and taken < self._job.part:
                self._check_strict(item)
                if item.piece is not None:
                    writer.write(item.piece)
                rows += item.rows
                taken += item.block.count
                after = item.block.after
                rejects += [record(item.block, reject) for reject in item.rejects]
                self._told(item)
                item = next(done, None)
            if rows:
                writer.finish()
        size, digest = draft.stat().st_size, _sha256(draft)
        rejects_name = f"_{Path(name).stem}.rejects.jsonl" if rejects else None
        written = Part(
            file=name if rows else None,
            rows=rows,
            rejected=len(rejects),
            size=size,
            sha256=digest,
            rejects=rejects_name,
            after=after,
        )
        self._wait_for_landing()
        self._job = msgspec.structs.replace(
            self._job, parts=(*self._job.parts, written), columns=writer.columns
        )
        self._landing = landing.submit(self._land, name, self._job, b"".join(rejects))
        return item

    def _land(self, name: str, after: Job, rejects: bytes) -> None:
        """Put the job's last part into its place, then the manifest that tells of it."""
        part = after.parts[-1]
        if part.file is not None:
            self._append(self._place.draft(name), after)
            self._place.publish(name)
        else:
            self._place.draft(name).unlink()
        if part.rejects is not None:
            self._place.write(part.rejects, rejects)
        self._place.write(MANIFEST, after.to_json())

    def _catch_up(self, before: Job) -> None:
        """Bring the parts of runs before this one into the whole file."""
        for part in before.parts:
            if part.file is not None and self._grown is not None:
                with self._place.local(part.file) as path:
                    self._append(path, before)

    def _append(self, path: Path, after: Job) -> None:
        if self._grown is not None:
            with place.writing(self._place.target):
                self._grown.add(path, after.columns)

    def _told(self, item: Done) -> None:
        seconds = time.monotonic() - self._start
        self._written += item.rows
        self._progress.advance(item.block.count, note=f"{self._written / seconds:,.0f} rows/s")

    def _check_strict(self, item: Done) -> None:
        if self._choices.strict and item.rejects:
            raise strict_error(item.block, item.rejects[0])

    def _save(self) -> None:
        self._place.write(MANIFEST, self._job.to_json())

    def _finish(self) -> None:
        """Put the parts together where one file is wanted, and the rejects in any case."""
        written = [each.file for each in self._job.parts if each.file is not None]
        if not written:
            # No row tells what the columns would be; the reasons are the result.
            self._deliver_rejects(None)
            self._place.abandon()
            raise DataError(
                f"none of the {self._job.rejected:,} rows could be answered.",
                hint=f"'{self._place.rejects()}' has the reasons",
            )
        if self._place.folder:
            if not self._job.done:
                self._deliver_rejects(None)
                self._job = msgspec.structs.replace(self._job, done=True)
                self._save()
            for each in self._job.parts:
                if each.rejects is not None:
                    self._place.remove(each.rejects)
            return
        with place.writing(self._place.target):
            if self._grown is not None:
                self._grown.finish()
            else:
                with (
                    contextlib.ExitStack() as stack,
                    self._place.draft(self._whole_name).open("wb") as file,
                ):
                    paths = [stack.enter_context(self._place.local(name)) for name in written]
                    whole.assemble_npz(paths, file)
            self._place.publish(self._whole_name)
        self._place.remember(msgspec.structs.replace(self._job, done=True).to_json())
        self._deliver_rejects(self._whole_name)

    @property
    def _whole_name(self) -> str:
        return f"whole{parts.WRITTEN[self._format]}"

    def _deliver_rejects(self, name: str | None) -> None:
        """All parts' rejects as one file, and the result itself, into their places."""
        texts = [
            self._place.read(each.rejects) or b""
            for each in self._job.parts
            if each.rejects is not None
        ]
        if texts:
            self._place.write(REJECTS, b"".join(texts))
        self._place.deliver(name, REJECTS if texts else None)


_FLAGS = {"batch": "batch", "part": "part-rows"}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
