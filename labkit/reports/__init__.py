"""The forms in which a run is shown: each module turns a Run into text, `files` puts the text on disk.

A report is added by adding a module with `render(run) -> str` and its line in `files.REPORTS`. What a run holds comes
from a guest: every module escapes for its own format.
"""
