"""The command line: flags as dataclasses, LLaVA's old names for them, YAML. Begin with ``command_line.py``."""
