"""Which sessions are wanted, and who is to judge."""
