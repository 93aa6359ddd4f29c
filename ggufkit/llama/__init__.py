"""Everything that knows llama.cpp: its tools, their arguments and output, its file format, its libraries."""
