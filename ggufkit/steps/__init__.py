"""One step each that makes a file; `step` holds the idea."""
