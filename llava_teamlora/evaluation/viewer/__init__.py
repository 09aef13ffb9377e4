"""Scores -> a folder of samples to look at in a browser; see ``site``."""
