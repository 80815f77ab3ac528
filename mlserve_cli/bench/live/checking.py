"""Are the answers answers? A server that says 200 and nothing else is fast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlserve_cli.bench.live import rpc, wire
from mlserve_cli.bench.live.place import Place, ask
from mlserve_cli.bench.live.questions import Questions
from mlserve_cli.bench.live.served import PAYLOADS, Served
from mlserve_cli.errors import MlserveError
from mlserve_cli.runtime.golden import relative_difference
from mlserve_cli.runtime.tensors import Tensors

_ASKED = 3


@dataclass(frozen=True, slots=True)
class Checked:
    """answers: how many were read whole. worst: the largest relative difference from what was
    expected; None where that is not known. problem: the first that was wrong, for a person."""

    answers: int
    worst: float | None = None
    tolerance: float = 0.0
    problem: str | None = None

    def __add__(self, other: Checked) -> Checked:
        """Both together."""
        known = [worst for worst in (self.worst, other.worst) if worst is not None]
        return Checked(
            self.answers + other.answers,
            max(known, default=None),
            max(self.tolerance, other.tolerance),
            self.problem or other.problem,
        )

    @property
    def doubt(self) -> str | None:
        """What makes the figures mean less."""
        if self.problem:
            return self.problem
        if self.worst is not None and self.worst > self.tolerance:
            return (
                f"the answers differ from the package's golden predictions by {self.worst:.2g} of "
                f"their range (allowed {self.tolerance:.2g}): something else is served"
            )
        return None

    def facts(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "answers": self.answers,
            "worst_relative_difference": self.worst,
            "tolerance": self.tolerance if self.worst is not None else None,
            "problem": self.problem,
        }


def try_out(place: Place, served: Served, questions: Questions) -> Checked:
    """Ask a few questions one by one and read the answers whole, before anything is measured.

    Raises `MlserveError` where the server refuses one, or answers something unreadable.
    """
    samples = []
    for number, request in enumerate(questions.requests[:_ASKED]):
        if served.protocol == "oip-grpc":
            samples.append((number, rpc.ask(place, request.body)))
            continue
        reply = ask(place, "POST", served.path, request.body, request.headers)
        if reply.status == 401:
            raise MlserveError(
                f"the server at {place.url} asks for an API key.", hint="--key, or MLSERVE_KEY"
            )
        if not 200 <= reply.status < 300:
            hint = None
            if questions.synthetic:
                hint = "the rows were made up; --data or --package give it real ones"
            elif reply.status == 404:
                hint = "is the model's name right, and the --protocol?"
            raise MlserveError(
                f"the server answers {reply.status} to POST {served.path}: {reply.words}.",
                hint=hint,
            )
        samples.append((number, reply.body))
    checked = check(served, questions, samples)
    if checked.problem:
        raise MlserveError(f"{checked.problem}.", hint="--protocol says what the server speaks")
    return checked


def check(served: Served, questions: Questions, samples: Sequence[tuple[int, bytes]]) -> Checked:
    """Read answers whole: in form, in number of rows, and against what they must be."""
    worst: float | None = None
    for number, body in samples:
        try:
            outputs = wire.outputs(served, body)
        except MlserveError as error:
            return Checked(len(samples), worst, questions.tolerance, error.message.rstrip("."))
        problem = _wrong(served, questions, number, outputs)
        if problem:
            return Checked(len(samples), worst, questions.tolerance, problem)
        if questions.expected:
            worst = max(worst or 0.0, _difference(questions.expected[number], outputs))
    return Checked(len(samples), worst, questions.tolerance)


def _wrong(served: Served, questions: Questions, number: int, outputs: Tensors) -> str | None:
    if not outputs:
        return "an answer holds no outputs"
    if served.protocol == "torchserve":
        return None
    by_row = served.protocol in PAYLOADS or (
        served.signature is not None
        and served.signature.has_batch
        and all(spec.has_batch for spec in served.signature.outputs)
    )
    count = questions.requests[number].rows
    if by_row and any(array.ndim == 0 or len(array) != count for array in outputs.values()):
        return f"an answer to {count} rows holds another number of them"
    return None


def _difference(expected: Tensors, found: Tensors) -> float:
    """The largest of all outputs; of one that is missing, infinite."""
    return max(
        relative_difference(array, found[name]) if name in found else float("inf")
        for name, array in expected.items()
    )
