"""Models behind an address that OpenAI's clients can talk to."""
