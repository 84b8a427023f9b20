"""The structure of a workflow file, its literals, the registry of node types, and the JSON Schema.

Nothing here resolves a name or rewrites a graph: that is the compiler's work.
"""
