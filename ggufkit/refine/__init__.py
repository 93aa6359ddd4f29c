"""Better roundings inside the blocks that `llama-quantize` wrote: same types, same bytes, less loss.

    inputs = RefineInputs(quantized, base, checkpoint, calibration)
    result = refine_gguf(inputs, out, RefineOptions(), state_dir=state, reporter=reporter)

`engine` goes through the layers, `stages` runs one as the original and as refined so far, `matrices` refines what shares
an input, `solve` finds levels and scales. This module imports no torch, so that `options` can be read at start-up;
`engine` does, through `layers`.
"""
