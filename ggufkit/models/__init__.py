"""What a MODEL is on this disk: a checkpoint, a GGUF, an adapter merged into one."""
