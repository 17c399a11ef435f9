"""labkit-images: gives a converter images, and reports what it made of them.

It judges nothing. It prints one JSON object per line, each with a "type":

  plan      facts, cases and builds (the names of what will run), only
  version   converter: what it says that it is
  case      case (its name), about (the image's configuration), status (of the conversion), err (the end of what it
            said), config (config.json, None where there is none), tree (what was unpacked below its directory t, see
            tree.py), outside (what it changed outside of the root file system), command (what was given in place of
            the image's), cannot (words for why, instead of all that), seconds, commands
  build     status, err, cannot, layout (what it wrote, see layout.py), validate (what oci-image-tool says of it),
            seconds, commands
  broken    the converter could not be used, and nothing more comes: why
  log       the end of the daemons' log, in "text"
  finish    everything ran

Names that are no UTF-8 have their bytes as \\xNN.

A converter is either a program that writes a bundle (a module of its name in converters/), or an engine of
labkit.guest.engines: its config.json is then what it hands to its runtime, from the record of labkit's spy, and what it
unpacked is seen at the root of a container that waits.

Exit status: 0 everything ran, whatever was seen; 2 wrong usage, with nothing on stdout; 3 the converter cannot be used
on this machine, or another suite runs there (--lock); 128 + n ended by signal n.

How the machine is left as it was: as labkit.guest.engines does it. What hostile images aim at is OUTSIDE (cases.py), a
directory of this run.

Standard library only, Python 3.9, and only json and modules of Debian's python3-minimal.
"""

__version__ = "1.0.0"
