"""The questions: one package of studies on top of `interp`, and the command line."""
