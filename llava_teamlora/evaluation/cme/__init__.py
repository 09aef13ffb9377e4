"""CME's eleven text-only tasks, one file each; their names are among ``evaluation.benchmarks.BENCHMARKS``."""
