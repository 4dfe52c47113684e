"""From a source to sinks: the loop, what was lost, and when it ends."""
