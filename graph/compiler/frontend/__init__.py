"""From the files of a workflow to one graph: composites are expanded, and names become edges.

A rule that looks at the finished graph belongs to `graph/compiler/checks/`.
"""
