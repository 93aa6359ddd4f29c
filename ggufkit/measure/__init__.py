"""One step each that measures."""
