"""The spy: a program that is put where an engine looks for its runtime, writes down each call, and runs the runtime.

`spy.py` is all of it: one file, standard library only, Python 3.9. It is installed under any name, `/opt/spy/runc`,
with its configuration beside it under the same name and `.spy`: `/opt/spy/runc.spy`. Nothing is taken from the
environment, of which engines keep back what they like. `install.py` gives the text of both.

The configuration has lines `key = value`, then a section `[fault]` for each fault; `#` begins a line of comment:

    runtime = /usr/sbin/runc            required: the program that is called
    record = /var/lib/spy/calls.jsonl   required: where calls are written; its directory must be there
    arg = --network=none                put before what the engine says; may stand several times
    state = create start kill delete    after which commands the runtime is asked for the state; this is the default
    line = 1048576                      bytes of the longest line of the record
    file = 16777216                     bytes of the record, after which calls are only counted, in RECORD.left

    [fault]
    do = fail                           fail, hang, garbage, lose-pid-file or wrong-status
    command = create                    create, start, state, kill, delete or any other; without it, any
    id = web-*                          of which containers: * stands for anything
    call = 2                            the second call that this is about; `2-`: each from then on; without it, each
    status = 1                          the exit status; with fail, `0` is a success that did nothing
    stdout = text                       what is printed, escapes as in Python: \\n, \\x00
    stderr = text
    repeat = 1                          how many times that is printed
    log = yes                           whether the text on stderr also goes to the runtime's --log
    seconds = 5                         how long hang takes; without it, until the spy is killed
    run = no                            whether the runtime is run besides: yes, before the hang or the answer; no
    say = stopped                       the status that state reports with wrong-status

The record has up to three lines for a call, joined by `id`. Each is one write to the end of the file:

    {"event": "call", "id", "t", "argv0", "argv", "cwd", "fds", "env", "ppid", "ppid_comm", "ppid_cmd", "runtime",
     "config", ...}      written before the runtime starts; "config" is the bundle's config.json, for create
    {"event": "end", "id", "t", "seconds", "status" or "signal", "fault"}
    {"event": "state", "id", "t", "status", "stdout"}
    {"event": "full", ...}                              nothing more is written: the record has its size

What did not fit stands in "left_out": the name of each field, and how large it was.
"""
