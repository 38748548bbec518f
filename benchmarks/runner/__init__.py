"""Makes the runs of a suite: all arms under one protocol, a record a run."""
