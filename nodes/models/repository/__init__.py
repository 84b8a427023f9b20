"""Model repositories: folders, the hub, configurations, and weight files.

Placing components on a device belongs to `nodes/models/memory/`.
"""
