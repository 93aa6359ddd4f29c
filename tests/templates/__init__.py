"""Chat templates of our own making, in the shapes of well-known public ones."""
