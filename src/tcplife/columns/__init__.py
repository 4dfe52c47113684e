"""What a column shows, and how: one row a column."""
