"""The promises between the graph and a node library, and values that every layer needs.

Node types, port types, diagnostics and events are defined here. Code that reads a workflow, compiles it or runs it
belongs to the layers above.
"""
