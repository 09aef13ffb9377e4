"""Base models: a finished LLaVA, or a LLaVA put together from a language model and a vision tower."""
