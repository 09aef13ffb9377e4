"""CME, the paper's text-only benchmark: the mix that models are trained on, and its tables."""
