"""`sgd exec` in several processes: options, the process that starts the ranks and watches them, a rank itself."""
