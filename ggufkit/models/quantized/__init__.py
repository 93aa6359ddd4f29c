"""Checkpoints whose weights are quantized already: which way, who reads them, and what their weights are as floats."""
