"""Checks of a resolved graph. Each takes a graph and returns diagnostics, and none changes it.

A function that returns another graph belongs to `graph/compiler/passes/`.
"""
