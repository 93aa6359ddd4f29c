"""ggufkit from Python: one function for each command, with the command line's names and spellings."""
