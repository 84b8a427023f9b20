"""From a parsed file to a plan: the graph, its types, and the passes that check and rewrite it.

Nothing here runs a node or imports torch. The executor is in `graph/runtime/`.
"""
