"""Speed and memory, side by side: every way of computing an adapted layer, its figures, the limits they must keep."""
