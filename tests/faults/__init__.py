"""A harness of faults: what stops, kills, cuts, fills and corrupts labkit at named points.

table.py       what is done, when, and what labkit does then: one row each
points.py      how labkit is seen to be at a point, from outside
driver.py      runs labkit there and looks what is left
simulator/     a QEMU, its guest, and builders of images, simulated
test_*.py      the rows; test_real.py those on real machines

By hand: `python -m tests.faults` lists the rows, with words only those with them; `--run` tries them, `--real` on a
real machine; `--write` makes docs/reference/faults.md anew.
"""
