"""What a run's records say about its experts; reads files, loads no model."""
