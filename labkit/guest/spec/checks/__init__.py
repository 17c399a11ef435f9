"""The checks, one module per group; every module here is loaded by registry.load()."""
