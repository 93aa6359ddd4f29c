"""One process's output into others at once: named pipes, linked processes, and who gets which processors."""
