"""Features of a frozen backbone, computed once: the linear probe, the feature cache, the frozen prefix."""
