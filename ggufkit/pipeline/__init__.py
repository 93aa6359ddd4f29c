"""`build` as a plan: what a request needs, in what order, and what it takes of the machine."""
