"""The devices and machines that a run trains on, how weights are distributed over them, and whether a batch fits into memory."""
