"""Programs that give OCI commands to tools which have none: each a file that is sent as it is."""
