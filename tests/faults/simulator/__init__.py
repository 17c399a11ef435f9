"""Programs that labkit runs, simulated: a QEMU whose guest is a few files, and what builds images.

They are real processes with real sockets, files and signals, so that labkit's own code runs against them unchanged, in
milliseconds. `stages.json` beside the programs says where they stop or fail (see stages.py).
"""
