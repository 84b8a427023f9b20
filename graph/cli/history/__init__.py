"""Runs that have been: a list of them, a page with their pictures, and what may be removed of them.

A report of one run, and the comparison of two, belong elsewhere. Nothing here runs a workflow.
"""
