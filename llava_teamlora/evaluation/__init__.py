"""Benchmarks: predict with a model, score without one, report."""
