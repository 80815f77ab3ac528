"""The answers of late: which version decided what, until somebody tells what was right.

No inputs are kept, and of the outputs only the decisions. It lives on the event loop.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ..monitoring import logs
from ..monitoring.record import LONGEST_ID
from .decisions import Decider, Truth, Undecided, Verdict, decider
from .prediction import Packed, pack, unpack
from .tallies import Key, Tallies, Tally

if TYPE_CHECKING:
    from ..manifest import Manifest
    from ..tensors import Tensors

log = logging.getLogger(f"{logs.NAME}.feedback")

Arm = Literal["default", "canary", "ab", "named", "shadow"]
"""Why a version answered: as the default, by its weight, by a sticky key's share, because the
request named it, or as a copy."""

Result = Literal["joined", "corrected", "duplicate", "unseen", "forgotten", "row", "truth"]

UNKNOWN: tuple[Result, ...] = ("unseen", "forgotten", "row", "truth")
"""Results that joined nothing."""

_ROW_BYTES = 1 << 10
"""Of memory for each row that may be remembered; longer names and labels make it fewer rows."""

_LONGEST_ROWS = 10_000
"""Of one request: each truth writes all of its rows anew, and more of them take too long."""

# What they cost by tracemalloc (CPython 3.11, 64 bits), rounded up.
_PREDICTION_BYTES = 300  # the objects of one request and their places in the tables
_DECISION_BYTES = 70  # of one row, with the truth that may come
_SHADOW_BYTES = 20  # a second answer to the same request
_VALUE_BYTES = 32  # each of several values of a row


class Asked(Protocol):
    """One request, as a protocol knows it. alias: the id inside its message; empty for none."""

    request_id: str
    alias: str

    @property
    def named(self) -> bool:
        """Whether it asked for this very version, so that no rule chose it."""
        ...


@dataclass(frozen=True, slots=True)
class Pair:
    """A decision and its truth, as the file has them."""

    version: str
    arm: str
    prediction: Any
    truth: Truth


@dataclass(frozen=True, slots=True)
class _Source:
    """One package in one part of the traffic."""

    manifest: Manifest
    version: str
    arm: Arm
    tally: Tally
    decider: Decider | None


@dataclass(frozen=True, slots=True)
class Remembered:
    """A prediction that was just remembered."""

    memory: Memory
    model: str
    request_id: str
    serial: int

    def also(self, manifest: Manifest, outputs: Tensors) -> None:
        """A copy of the request was answered by that version. Never raises."""
        self.memory.shadowed(self, manifest, outputs)


class _Recent:
    """Of one model: what can still be joined, oldest first."""

    __slots__ = ("aliases", "bytes", "entries", "gone", "rows")

    def __init__(self) -> None:
        self.entries: OrderedDict[str, Packed] = OrderedDict()  # by request id
        self.aliases: dict[str, str] = {}  # → request id
        self.gone: OrderedDict[int, None] = OrderedDict()  # hashes of ids that were forgotten
        self.rows = self.bytes = 0

    def find(self, name: str) -> str | None:
        """The request with that id; the server's own ids and headers come first."""
        return name if name in self.entries else self.aliases.get(name)


class Memory:
    """Remembers the last `max_rows` > 0 rows of each model. The constructor only stores.

    arm: (model, version, named) → which part of the traffic a request belongs to.
    """

    def __init__(self, max_rows: int, arm: Callable[[str, str, bool], Arm]) -> None:
        self.tallies = Tallies()
        self._max_rows = max_rows
        self._longest_rows = min(max_rows, _LONGEST_ROWS)
        self._max_bytes = max_rows * _ROW_BYTES
        self._arm = arm
        self._models: dict[str, _Recent] = {}
        self._sources: list[_Source] = []
        self._numbers: dict[Key, int] = {}  # of the newest source of each
        self._warned: set[tuple[str, str]] = set()
        self._serial = 0

    def remember(
        self, asked: Asked, manifest: Manifest, outputs: Tensors, rows: int
    ) -> Remembered | None:
        """Remember an answer, and forget the oldest. Never raises; None where it is not kept."""
        if rows > self._longest_rows:
            return None
        model = manifest.name
        number = self._number(manifest, self._arm(model, manifest.version, asked.named))
        decided = self._decided(number, outputs, rows)
        if decided is None:
            return None
        name, alias = asked.request_id, asked.alias
        if len(alias) > LONGEST_ID:
            alias = ""
        recent = self._models.get(model)
        if recent is None:
            recent = self._models[model] = _Recent()
        older = recent.entries.pop(name, None)
        if older is not None:  # of two answers with the same id the newer one counts
            self._drop(recent, name, older)
        recent.gone.pop(hash(name), None)
        if alias:
            recent.gone.pop(hash(alias), None)
            recent.aliases[alias] = name
        self._serial = serial = self._serial + 1
        size = _PREDICTION_BYTES + 4 * (len(name) + len(alias)) + _size(decided)
        recent.entries[name] = pack(serial, alias, rows, size, number, decided)
        recent.rows += rows
        recent.bytes += size
        self._trim(model, recent)
        return Remembered(self, model, name, serial)

    def shadowed(self, remembered: Remembered, manifest: Manifest, outputs: Tensors) -> None:
        """A copy of that request was answered too. Never raises."""
        recent = self._models[remembered.model]
        packed = recent.entries.get(remembered.request_id)
        if packed is None or packed[0] != remembered.serial:
            return  # it was forgotten
        prediction = unpack(packed)
        number = self._number(manifest, "shadow")
        decided = self._decided(number, outputs, prediction.rows)
        if decided is None:
            return
        for row, truth in enumerate(prediction.truths):  # it came before the copy was answered
            verdict = None if truth is None else self._verdict(number, decided[row], truth)
            if verdict is not None:
                self._sources[number].tally.given.add(verdict)
        more = _SHADOW_BYTES + _size(decided)
        packed = prediction.answered(number, decided, more).packed()
        recent.entries[remembered.request_id] = packed
        recent.bytes += more
        self._trim(remembered.model, recent)

    def join(
        self, model: str, name: str, row: int, truth: Truth, pairs: list[Pair] | None = None
    ) -> Result:
        """Join a truth to row `row` of the answer with that id, and count what it says.

        A later truth for the same row replaces the earlier one. pairs: filled with what was joined.
        """
        result = self._join(model, name, row, truth, pairs)
        self.tallies.count(model, result)
        return result

    def knows(self, model: str) -> bool:
        """Whether anything of that model is remembered."""
        return model in self._models

    def decides(self, manifest: Manifest) -> bool:
        """Whether answers of that version are remembered at all."""
        return decider(manifest) is not None

    def _join(
        self, model: str, name: str, row: int, truth: Truth, pairs: list[Pair] | None
    ) -> Result:
        recent = self._models.get(model)
        if recent is None:
            return "unseen"
        found = recent.find(name)
        if found is None:
            return "forgotten" if hash(name) in recent.gone else "unseen"
        prediction = unpack(recent.entries[found])
        if not 0 <= row < prediction.rows:
            return "row"
        answers = prediction.answers
        before = prediction.truths[row] if prediction.truths else None
        if before is not None and before == truth:
            return "duplicate"
        verdicts = [self._verdict(number, decided[row], truth) for number, decided in answers]
        if not any(verdicts):
            return "truth"
        for (number, decided), verdict in zip(answers, verdicts, strict=True):
            source = self._sources[number]
            if before is not None:
                earlier = self._verdict(number, decided[row], before)
                if earlier is not None:
                    source.tally.withdrawn.add(earlier)
            if verdict is not None:
                source.tally.given.add(verdict)
                if pairs is not None and source.decider is not None:
                    shown = source.decider.shown(decided[row])
                    pairs.append(Pair(source.version, source.arm, shown, truth))
        more = _truth_size(truth) - (0 if before is None else _truth_size(before))
        recent.entries[found] = prediction.known(row, truth, more).packed()
        recent.bytes += more
        self._trim(model, recent)
        return "joined" if before is None else "corrected"

    def _number(self, manifest: Manifest, arm: Arm) -> int:
        """The number of a source, which is a new one where another package took its place."""
        key = (manifest.name, manifest.version, arm)
        number = self._numbers.get(key)
        if number is None or self._sources[number].manifest is not manifest:
            number = self._numbers[key] = len(self._sources)
            tally = self.tallies.tally(key)
            source = _Source(manifest, manifest.version, arm, tally, decider(manifest))
            self._sources.append(source)
        return number

    def _decided(self, number: int, outputs: Tensors, rows: int) -> tuple[Any, ...] | None:
        source = self._sources[number]
        if source.decider is None or rows < 1:
            return None
        try:
            return tuple(source.decider.decide(outputs, rows))
        except Exception as error:  # an engine of the user's own may return anything
            key = (source.manifest.name, source.version)
            if key not in self._warned:
                self._warned.add(key)
                why = "" if isinstance(error, Undecided) else f" ({type(error).__name__})"
                log.warning("answers of %s %s decide nothing about their rows%s", *key, why)
            return None

    def _verdict(self, number: int, decided: Any, truth: Truth) -> Verdict | None:
        decides = self._sources[number].decider
        return None if decides is None else decides.verdict(decided, truth)

    def _trim(self, model: str, recent: _Recent) -> None:
        while recent.rows > self._max_rows or recent.bytes > self._max_bytes:
            name, oldest = recent.entries.popitem(last=False)
            for gone in self._drop(recent, name, oldest):
                recent.gone[hash(gone)] = None
            while len(recent.gone) > self._max_rows:
                recent.gone.popitem(last=False)
        self.tallies.remembered[model] = recent.rows

    def _drop(self, recent: _Recent, name: str, packed: Packed) -> list[str]:
        """Let go of one that stands in the table no more; the ids that lead nowhere now."""
        _, alias, rows, size, *_ = packed
        recent.rows -= rows
        recent.bytes -= size
        if not alias or recent.aliases.get(alias) != name:
            return [name]
        del recent.aliases[alias]
        return [name, alias]


def _size(decided: tuple[Any, ...]) -> int:
    """About how many bytes they take: numbers are in the price of a row."""
    if isinstance(decided[0], str):
        return sum(_DECISION_BYTES + 4 * len(text) for text in decided)
    if isinstance(decided[0], tuple):
        return len(decided) * (_DECISION_BYTES + _VALUE_BYTES * len(decided[0]))
    return len(decided) * _DECISION_BYTES


def _truth_size(truth: Truth) -> int:
    """The same of a truth."""
    if isinstance(truth, str):
        return 4 * len(truth)
    return _VALUE_BYTES * len(truth) if isinstance(truth, tuple) else 0
