"""One module for each version of the tables. A version that has been released is not changed any more."""
