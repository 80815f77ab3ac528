"""Packages of small torch definitions, shared with the other steps that train."""

from tests.trainable import mixed_package, one_thread, package_of

__all__ = ["mixed_package", "one_thread", "package_of"]
