"""The embedded CME: an invented world, eleven tasks about it in the public files' layouts, text to learn it from."""
