"""labkit-spec: a conformance suite for OCI container runtimes (runtime-spec 1.0 to 1.3, Linux, cgroup v1 and v2).

How to write a check
====================
Add a function to a module in `checks/` (a new file there is found by itself). Id, level, name and reference come
from `requirements.tsv`::

    from ..context import T
    from ..registry import check

    @check("PROC-001")                                # options: timeout=60 (seconds), exclusive=False (runs alone)
    def cwd(t: T) -> None:
        config = t.config("pwd")                      # a str is a busybox sh script, a list is argv as it is
        config["process"]["cwd"] = "/tmp"
        c = t.run(config)                             # create, start, wait until it ended; each is required
        t.equal(c.stdout.strip(), "/tmp", "working directory of the process")
        config["process"]["cwd"] = "tmp"
        t.refused(config, "create with a relative cwd")

A function is one check, runs in its own process, and must assert something. Comparisons collect failures and the
check goes on; `require`, `create`, `run` and `skip` end it. A check decides nothing from the level: SHOULD that is
not met is `fail` too (its level is in the result); for MAY use `t.note`. An exception the check did not expect is
verdict `error`, a bug of ours. What only looks at a container shares one (parts.py: what is inside of it; stages.py:
its lifecycle). Judge outside the container: let the probe print, parse in Python. Never sleep a
fixed time where `t.wait` can poll; a runtime call is the costly thing, so make few. Standard library only, Python
3.9, and only json and modules of Debian's python3-minimal (no ctypes, shutil, tempfile, difflib, importlib.resources,
queue, mmap, multiprocessing, resource, pty, termios, unittest).

Where a check runs: every check is a descendant of one private PID namespace and mount namespace (mounts shared
among the checks as on a systemd host, nothing reaches the real host). All files are on a private tmpfs. So
processes, mounts and files cannot stay behind; containers, processes, cgroups and mounts of a check are removed
after it anyway. Orphaned containers' exit statuses are collected (`Container.exit_status`), which needs no ctypes.
The network, cgroup, IPC and UTS namespaces are the host's: what a check makes there it removes itself (`t.defer`).

`T` (context.py), what a check gets:
  facts      t.id t.spec (claimed spec version, e.g. (1, 0, 2)) t.features (dict or None), t.feature("linux", "seccomp")
             (a value in it, or None) t.host (Host: runtime, busybox, cgroup "v1" "hybrid" "v2", kernel as (6, 12))
             t.work (private directory) t.remaining()
  config     t.config(script or argv) dict, change it freely; set_namespace(config, type, path=..), drop_namespace
  bundle     t.bundle(config) -> Bundle: path, rootfs, out (seen as /out in the container), write(config), read(name)
  whole run  t.run(config or bundle) -> Container, its process ended; t.refused(config or bundle, what) -> Container
             (by_start=True: a refusal by start counts as well; valid=: the same config without the offence)
  steps      t.create(...) (required), t.try_create(...) (not judged) -> Container; t.cli("state", id) -> Proc for any
             other command line; launch=t.shell('exec "$@" 7</dev/null') starts the runtime through a shell
  Container  id bundle pid created(Proc of create) stdout stderr; start() state() kill(sig) delete(force=) -> Proc;
             read_state() -> dict; status(); ended() (asks no runtime); wait_stopped(); exit_status();
             cgroup_dir(controller)
  Proc       argv status (None: it passed a limit) stdout stderr seconds ok
  judge      t.equal(actual, expected, what) t.true(cond, what, expected=, actual=) t.ok(proc, what)
             t.fails(proc, what, valid=...) t.require(cond, what, ...) t.skip(reason) t.note(key, value)
             t.need_spec((1, 1, 0), what): skips where that is new in a later runtime-spec; t.need_processes()
  wait       t.wait(function, timeout=10) -> its first true value or None; t.wait_file(path, timeout=10) -> text or None
  tools      t.tool("mount", ...) -> Proc: a busybox applet on the host; t.command(path, ...) -> Proc: any program;
             t.spawn(argv, ...) -> Popen, killed at the end; t.sees_processes: /proc/PID shows the container's
             process (not with a runtime that has a kernel of its own: judge from inside, by what a script writes);
             t.defer(function, *args): called after the check, even when it failed (not when it ran out of time)
"""

__version__ = "1.0.0"
