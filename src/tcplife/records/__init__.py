"""What a record is: its layout, batches of it, and the objects that programs get."""
