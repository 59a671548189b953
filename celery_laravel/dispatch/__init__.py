"""The producer side: what happens from a dispatch to its message."""
