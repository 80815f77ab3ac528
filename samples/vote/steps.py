"""What the vote computes beside the average: how far its members agree."""

import numpy as np


def agreement(boosted, linear):
    """(batch, classes) twice → (batch, 1): 1 where both say the same, 0 where they are opposed."""
    return {"agreement": 1 - np.abs(boosted - linear).max(axis=1, keepdims=True)}
