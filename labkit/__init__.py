"""labkit: a lab for OCI container runtimes."""

__version__ = "0.1.0"
