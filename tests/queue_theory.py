"""A queue before one server with a constant service time: what theory says, and by recursion."""

import numpy as np


def md1_wait(load, service):
    """The mean wait of an M/D/1 queue (Pollaczek 1930, Khinchine 1932): load < 1, same unit."""
    return load * service / (2 * (1 - load))


def waits(times, service):
    """(n,) the wait of each arrival, by Lindley's recursion (1952)."""
    found, free = np.zeros(len(times)), 0.0
    for number, at in enumerate(times):
        begins = max(at, free)
        found[number], free = begins - at, begins + service
    return found
