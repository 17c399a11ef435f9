"""labkit-programs: runs the programs of opencontainers/runtime-tools side by side, and reports what they printed.

It judges nothing. What it prints on stdout is one JSON object a line, each with a "type":

  plan    programs (in the order of the names, each once), facts
  start   program, attempt (from 1)
  data    program, stream ("out" or "err"), data (base64: the bytes as they came, at most 64 KiB)
  end     program, attempt, status (exit status or null), signal (number or null), timeout (whether it ran out of
          time; it was killed then), seconds (of the program alone), left (texts: what it left behind and was removed),
          dropped ({"out": bytes, "err": bytes}: what it printed beyond the bound of its streams)
  finish  everything ran

One program has at most one attempt at a time, so data belongs to the attempt that began last. status and signal are
both null when a program's sandbox ended before it could tell, and left says so.

facts: kernel, cgroup ("v1", "v2" or "hybrid"), runtime-path, runtime-version, spec (the version the runtime claims),
ref (of the tree, where it has one), suite, cores, jobs, limit (seconds for a program), reset (the machine must be reset
afterwards).

Exit status: 0 everything ran, whatever it said; 2 wrong usage, with nothing on stdout; 3 this host cannot hold the
programs (no namespaces or mounts); 128 + n ended by signal n (13: nobody reads any more).

How a program is held
=====================
Each runs in a PID namespace and a mount namespace of its own (box.py), with temporary files and the runtime's records
on file systems that only it sees. So whatever it does, its processes and mounts are gone when its namespaces are: a
program may fork twice, ignore signals, keep the pipe open or kill its parent. No program needs the host's own mount
namespace: linux_ns_itype compares the container's namespaces with those the program itself is in, whichever they are.
It still deletes through live mounts, which reaches what no mount namespace hides, so it runs last and alone, and calls
for a reset. Cgroups are the host's: a runtime that found itself in another one than in a shell loop would act
differently. They are watched and removed instead (cgroups.py).

Standard library only, Python 3.9, and only json and modules of Debian's python3-minimal.
"""

__version__ = "1.0.0"
