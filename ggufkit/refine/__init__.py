"""Better roundings inside the blocks that `llama-quantize` wrote: same types, same bytes, less loss."""

import ggufkit.layers.torch_threads  # noqa: F401 - must be the first to import torch
