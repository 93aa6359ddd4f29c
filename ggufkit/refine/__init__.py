"""Better roundings inside the blocks that `llama-quantize` wrote: same types, same bytes, less loss."""
