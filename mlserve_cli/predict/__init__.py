"""Batch prediction: a file of rows through a package, a file of answers out."""
