"""Which toggle gives how much of a gain."""
