"""Components in memory: acquired, offloaded, seen through views, decoded in tiles, and released.

Reading files belongs to `nodes/models/repository/`.
"""
