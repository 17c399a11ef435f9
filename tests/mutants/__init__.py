"""Broken runtimes: each is the installed runtime with one requirement broken, to prove that its check sees that.

    python3 -S -E tests/mutants NAME RUNTIME WORDS...

runs RUNTIME with WORDS as the mutant NAME does. A mutant changes what the runtime sees or says, never what a check
reads: a config.json it edits for `create` is put back, and nothing of its own stays in the bundle.
To add one, add a function to table.py. Standard library only; it starts for every call, so it imports little.
"""
