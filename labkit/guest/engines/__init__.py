"""labkit-engine: uses an engine over a runtime, with a spy between the two, and reports what was seen.

It judges nothing. It prints one JSON object per line, each with a "type":

  plan     facts, parts (the names of what will run)
  session  under ("runtime" or "reference"), runtime (its path): what follows is about this one; over the reference
           there are the steps that were not as expected
  version  engine: what it says that it is
  report   what a container saw of itself, in "text", and the machine of it: see report.py
  step     a step of the conversation: step (its id), expected, seconds, commands, and one of observed, cannot, failed
  fault    the same of a runtime that fails: fault (its id), ...
  broken   the engine could not be used, and nothing more comes of this session: why
  call     a line of the spy's record, as it is, in "line"
  log      the end of the daemons' log, in "text"
  finish   everything ran

facts: engine, engine-version, runtime-path, runtime-version, runtime-arguments, reference-path, kernel, cgroup, suite.

Exit status: 0 everything ran, whatever was seen; 2 wrong usage, with nothing on stdout; 3 the engine cannot be used on
this machine, or another suite runs there (--lock); 128 + n ended by signal n.

How the machine is left as it was
=================================
The engine, its daemons and containers are in a PID, a mount, a network and a cgroup namespace of their own (own.py),
with a file system of their own on /run, and no daemon of the machine is asked for anything. Whatever happens, their
processes and mounts are gone when the first process of the namespace is; storage and cgroups are below one directory
each, which the next run removes where this one could not.

Standard library only, Python 3.9, and only json and modules of Debian's python3-minimal.
"""

__version__ = "1.0.0"
