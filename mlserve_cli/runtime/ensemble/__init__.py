"""What an ensemble is made of: its file, its members, functions and operations.

The engine that runs the steps one after another is `engines/ensemble.py`.
"""
