"""One run of a job and its ending."""
