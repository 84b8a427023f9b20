"""One run in several processes: which calls run where, how ranks tell of themselves, and how a fault ends them.

The groups and their collectives belong to node libraries; starting ranks from the command line to `graph/cli/ranks/`.
"""
