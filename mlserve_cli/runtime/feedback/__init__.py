"""Ground truth, joined to the predictions that were answered: how right each version is."""
