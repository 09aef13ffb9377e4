"""``llava-teamlora doctor``: what this machine has, what a training would miss on it, and what to do."""
