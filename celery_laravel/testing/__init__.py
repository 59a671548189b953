"""Help for testing code that dispatches jobs."""
