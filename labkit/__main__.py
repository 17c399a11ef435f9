"""`python -m labkit`, and the command `labkit` of an installed wheel."""

from labkit.cli.program import main

if __name__ == "__main__":
    main()
