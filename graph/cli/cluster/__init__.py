"""`--ray`: options, and `sgd exec --ray`. The cluster, its workers and jobs belong to `graph/runtime/cluster/`."""
