"""The parts of ``scripts/peft_suites.py``, which runs peft's own tests over this project's tuners."""
