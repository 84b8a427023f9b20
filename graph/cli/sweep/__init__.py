"""A sweep: one workflow with every combination of some values. Its grammar, folder, runs, table and page.

The command itself is `graph/cli/commands/sweep_values.py`.
"""
