"""Results of pure nodes, kept by content and used again by later runs.

`keys` gives each result a key before anything runs, `entries` keeps files by key, and `reuse` decides which steps of a
plan need not run.
"""
