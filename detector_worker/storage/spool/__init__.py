"""What was accepted and is not delivered yet: one SQLite file, and all that is done to it."""
