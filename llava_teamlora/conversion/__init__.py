"""Adapters and run folders turned into others: merged into a plain model, converted, operated on."""
