"""Recipes: which type each tensor of a GGUF gets."""
