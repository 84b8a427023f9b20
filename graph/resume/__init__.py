"""Snapshots of a run, and the facts to go on after one in another process: the folder `.resume` in a run's folder.

The executor tells a `Keeper` where it is. Commands stand in `graph/cli/commands/`, and states of nodes in `nodes/`.
"""
