"""What a command does, whoever asks: the command line (`cli`) or Python (`api`)."""
