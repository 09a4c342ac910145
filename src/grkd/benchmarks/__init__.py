"""Benchmarks and their scores: one file per benchmark."""
