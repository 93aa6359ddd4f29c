"""AWQ, scale-only: fold activation-aware scales into a checkpoint and leave its function as it was.

    scheme = QuantizationScheme("awq+imatrix", types=(plan,), importance=True)     # plan: GGUF tensor -> ggml type
    scaled = scale_checkpoint(source, [(scheme, out)], calibration, AwqOptions(), WorkFiles(...), reporter)

`archs` is the table of what folds into what, `search` judges candidates, `objectives` says by what, `native` runs the
search layer by layer, `apply` writes the checkpoint, `proof` compares it with the original, `compat` searches as
AutoAWQ does, and `autoawq` runs AutoAWQ itself. `engine` puts them together.
"""

import ggufkit.layers.torch_threads  # noqa: F401 - must be the first to import torch
