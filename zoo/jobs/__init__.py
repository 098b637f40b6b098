"""Independent jobs, named by the hash of what they compute: run in local processes, or on a cluster."""
