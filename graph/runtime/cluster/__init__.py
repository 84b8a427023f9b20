"""Jobs on the workers of a Ray cluster: connecting, dealing jobs, the worker, one turn of a workflow as a job.

Ray is imported here alone, and only when a command line asks for it. A job returns its files; the process that deals
the jobs writes them.
"""
