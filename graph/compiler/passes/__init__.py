"""Passes that rewrite the graph or order it. Each takes a graph and returns a new one.

A function that reports the user's mistakes belongs to `graph/compiler/checks/`.
"""
