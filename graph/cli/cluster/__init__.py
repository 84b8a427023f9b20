"""The options of `--ray`, and `sgd exec --ray`. `graph/runtime/cluster/` has the cluster, its workers and jobs."""
