"""The questions: a room for each study, on top of `interp`, and the command line."""

from interp.door.moved import follow_moved

follow_moved()
