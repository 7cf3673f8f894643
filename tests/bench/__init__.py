"""Benchmarks: each file that can be run prints its figures; none is a test."""
