"""labkit-distribution: starts a registry, runs distribution-spec's conformance program, and hands its files on.

It judges nothing. It prints one JSON object per line, each with a "type":

  plan     facts, only and skip (names of tests that were asked for, and that are not meant)
  broken   the registry could not be used, and nothing was run: why
  end      how the program ended: status (-N by signal N), hung (whether it had to be ended), seconds, and registry:
           null where that was still running, else how it had ended
  file     a piece of a file, in order: name, data (base64), and cut where something of it is left out
  finish   everything arrived

facts: registry, runtime-path, runtime-version, kernel, cgroup, suite. Files: results.yaml, junit.xml, report.html as
the program wrote them, conformance.out and conformance.err (what it printed), registry.log (the end of it).

Exit status: 0 whatever was seen; 2 wrong usage, with nothing on stdout; 3 another suite runs there (--lock), or
something is in the way; 128 + n ended by signal n.

The registry has a directory and a port of its own, in PID, mount, network and cgroup namespaces that end with the run
(labkit.guest.engines.own). One that runs already is reached by the machine's network, and asked first whether it can
be used (outside.py); a user and a password for it come on stdin, as the first line, a JSON object with variables of
the program's environment (--variables), and SSL_CERT_FILE with what is in that file. They are in no argument, and the
password is taken out of all that is printed.

Standard library only, Python 3.9, and only modules of Debian's python3-minimal and json.
"""

__version__ = "1.1.0"
