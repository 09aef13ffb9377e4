"""What a run would do, told without weights: steps, memory, one batch and one sample. Begin with ``plan.py``."""
