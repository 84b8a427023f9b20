"""The executor: it walks a plan, emits events, and writes the record of the run.

Nothing here prints a table or reads the command line; that is `graph/cli/`.
"""
