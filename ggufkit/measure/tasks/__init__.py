"""How many questions of a task a file answers rightly, and which of the base's answers it loses."""
