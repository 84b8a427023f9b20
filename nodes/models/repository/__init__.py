"""Model repositories: folders, the hub, configurations, and the files of weights.

Placing components on a device belongs to `nodes/models/memory/`.
"""
