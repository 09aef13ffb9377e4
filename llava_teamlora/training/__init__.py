"""Visual instruction tuning: arguments -> data -> model -> train -> run folder. Begin with ``run.py``."""
