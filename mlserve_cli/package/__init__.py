"""The package: open, create and verify one; the step contract; the model definition.

Everything that the toolchain does is a step from package to package, or a measurement of one.
"""
