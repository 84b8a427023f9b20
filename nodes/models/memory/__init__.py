"""Components in memory: loading, views, offloading, tiled VAE work, and release.

Reading files belongs to `nodes/models/repository/`.
"""
