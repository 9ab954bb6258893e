"""Episodes on a Ray cluster: the fleet, its workers, their weights and sandboxes."""
