"""Sessions, and changes of state, added up by groups."""
