"""Where batches of records go, a file each; see Sink in records/batch.py."""
