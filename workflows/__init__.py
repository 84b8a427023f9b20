"""Runnable workflow files, reusable parts and the embedded model, as package data."""
