"""Programs that give OCI commands to tools which have none: each a file that is sent as it is."""

from pathlib import Path


def file(name: str) -> Path:
    """Where the program of that name is."""
    return Path(__file__).parent / name
