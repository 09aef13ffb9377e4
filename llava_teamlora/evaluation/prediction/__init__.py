"""Samples -> ``predictions.jsonl`` and ``manifest.json``; begin with ``evaluation/runner.py``."""
