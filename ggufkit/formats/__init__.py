"""Hugging Face checkpoints, quantized ones too, under transformers and on llama-perplexity's ruler."""
