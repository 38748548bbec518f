"""Measurements beside the suites, each a program: python -m benchmarks.studies.NAME."""
