"""Run jobs on the workers of a Ray cluster: connect, deal the jobs, run them in worker processes, join their records.

Only this package imports Ray, and only when a command line asks for it. A job returns its files; the process that deals
the jobs writes them.
"""
