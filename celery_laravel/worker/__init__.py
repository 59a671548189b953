"""The consumer side: what happens from a message's arrival to its job's record."""
