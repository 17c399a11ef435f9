"""labkit-programs: runs the programs of opencontainers/runtime-tools in parallel and reports their output.

It judges nothing. It prints one JSON object per line, each with a "type":

  plan    programs (in the order of the names, each once), facts
  start   program, attempt (from 1)
  data    program, stream ("out" or "err"), data (base64: the bytes as they came, at most 64 KiB)
  end     program, attempt, status (exit status or null), signal (number or null), timeout (whether it timed out and was
          killed), seconds (of the program alone), left (texts: what it left behind, now removed), dropped
          ({"out": bytes, "err": bytes}: how much of a stream was too much to pass on)
  finish  everything ran

One program has at most one attempt at a time, so data belongs to the attempt that began last. status and signal are
both null when a program's sandbox ended before it could tell, and left says so.

facts: kernel, cgroup ("v1", "v2" or "hybrid"), runtime-path, runtime-version, spec (the version the runtime claims),
ref (of the tree, if known), suite, cores, jobs, limit (a program's timeout in seconds), reset (the machine must be
reset afterwards).

Exit status: 0 everything ran, whatever the outcome; 2 wrong usage, with nothing on stdout; 3 programs cannot be run on
this host (no namespaces or mounts), or another suite runs there (--lock); 128 + n ended by signal n (13: the reader is
gone).

How a program is isolated
=========================
Each runs in a PID namespace and a mount namespace of its own (sandbox.py), with temporary files and the runtime's state
on file systems that only it sees. So whatever it does, its processes and mounts are gone when its namespaces are: a
program may fork twice, ignore signals, keep the pipe open or kill its parent. No program needs the host's own mount
namespace: linux_ns_itype compares the container's namespaces with those the program itself is in, whichever they are.
But it deletes files through live mounts, which no mount namespace prevents, so it runs last and alone, and the machine
needs a reset. Cgroups are the host's: in another cgroup than a shell loop has, a runtime would act differently. They
are watched and removed instead (cgroups.py).

Standard library only, Python 3.9, and only json and modules of Debian's python3-minimal.
"""

__version__ = "1.0.0"
