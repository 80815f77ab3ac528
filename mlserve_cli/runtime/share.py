"""The cores that several models share, so that a busy one does not starve the others.

Every model may always run one batch: a lone request never waits for another model. More batches at
the same time are for cores that are free, and go to the model that had the least of them lately,
by its weight (start-time fair queueing).
"""

from __future__ import annotations

from collections.abc import Callable


class Alone:
    """The share of a model that has all there is."""

    wake: Callable[[], bool]

    def take(self) -> bool:
        """May a batch begin? Yes."""
        return True

    def give(self, seconds: float) -> None:
        """A batch ended."""

    def leave(self) -> None:
        """The model takes no more turns."""


class Share:
    """One model's part of the cores. Make it with `Cores.share`.

    wake: called when a batch that was refused may begin; whether there is one yet.
    """

    wake: Callable[[], bool]

    def __init__(self, cores: Cores, cost: int, weight: float) -> None:
        self._cores = cores
        self._cost = cost
        self._weight = weight
        self.running = 0  # batches
        self.used = 0  # cores
        self.spent_s = 0.0  # core seconds by weight, on the clock that all shares have in common
        self.wants = False  # was refused, and waits to be woken

    def take(self) -> bool:
        """May a batch begin? If not, `wake` is called later."""
        cores = self._cores
        if self.running and not cores.has_room(self, self._cost):
            self.wants = True
            return False
        if not self.running:
            # Who was idle has no claim to the time in which nobody asked.
            self.spent_s = max(self.spent_s, cores.clock_s)
        self.wants = False
        self.running += 1
        self.used += self._cost
        cores.used += self._cost
        cores.turn()
        return True

    def give(self, seconds: float) -> None:
        """A batch ended after `seconds`."""
        self.running -= 1
        self.used -= self._cost
        self._cores.used -= self._cost
        self.spent_s += seconds * self._cost / self._weight
        self._cores.wake()

    def leave(self) -> None:
        """The model takes no more turns."""
        self.wants = False
        self._cores.forget(self)


class Cores:
    """What the models of one server share. It lives on the event loop."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.used = 0
        self.clock_s = 0.0
        self._shares: list[Share] = []

    def share(self, *, threads: int, weight: float = 1.0) -> Share:
        """The share of one model whose batches use `threads` threads each (0: every core)."""
        share = Share(self, min(threads or self.count, self.count), weight)
        self._shares.append(share)
        return share

    def has_room(self, asking: Share, cost: int) -> bool:
        """Whether one more batch of that model may run beside all others."""
        others = [share for share in self._shares if share is not asking]
        if self.used == asking.used and not any(share.wants for share in others):
            return True  # nobody else is here: as many as it has workers
        if self.used + cost > self.count:
            return False
        return not any(share.wants and share.spent_s < asking.spent_s for share in others)

    def turn(self) -> None:
        """A batch begins: move the clock to the model that had least of those that run."""
        if len(self._shares) > 1:
            least = min([share.spent_s for share in self._shares if share.running], default=0.0)
            self.clock_s = max(self.clock_s, least)

    def wake(self) -> None:
        """Let those who were refused ask again, who had least first."""
        waiting = [share for share in self._shares if share.wants]
        for share in sorted(waiting, key=_spent):
            share.wants = share.wake()

    def forget(self, share: Share) -> None:
        """That model is gone."""
        if share in self._shares:
            self._shares.remove(share)
            self.wake()


def _spent(share: Share) -> float:
    return share.spent_s
