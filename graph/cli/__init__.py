"""The command line: its parser, the messages on stderr, and the tables and pictures on stdout.

Work that a Python caller needs too belongs to the layers below.
"""
