"""What the programs that run in a machine share. Standard library only, Python 3.9."""
