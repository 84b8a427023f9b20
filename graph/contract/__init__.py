"""The promises between the graph and a node library, and values that every layer needs."""
