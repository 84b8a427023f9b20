"""`python -m sgd`: the `sgd` command."""

from .entry import main

main()
