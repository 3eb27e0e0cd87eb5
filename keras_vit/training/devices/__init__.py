"""Which devices and machines a run trains on, how weights lie on them, and whether a batch fits into their memory."""
