"""Run a checkpoint one decoder layer at a time, and gather the second moments of its linears' inputs.

    model = StreamedModel(checkpoint_dir, device="auto")          # no weights read yet
    hidden = HiddenStates(state_dir / "hidden.0", samples.shape, model.width)
    embed(model, samples, hidden)
    for index in range(model.n_layers):
        layer = model.load_layer(index)                           # this layer only, float32
        inputs = moments_for(model.linears(layer, index))         # one Moments per distinct input
        after = HiddenStates(state_dir / f"hidden.{index + 1}", samples.shape, model.width)
        with gathering(inputs, layer, model.linears(layer, index)):
            run_layer(model, index, layer, hidden, after)
        for linear in model.linears(layer, index):                # module path, GGUF tensor, expert, input
            weight = layer.get_submodule(linear.module).weight    # (out, in), free to be overwritten
            gram = inputs[linear.input].mean()                    # E[x xᵀ], (in, in), float32
        hidden = after
    logits = model.logits(hidden.read(0, 4))

To refine in sequence, overwrite weights and call `run_layer` again: `after` is optional. Two `HiddenStates` hold the
original's and the refined model's activations side by side.

The layers are transformers' own modules. Their masks, rotary embeddings and sliding windows come from the
base model's own forward pass, run once over stand-ins that note what each layer is given.

Memory: one layer in float32, the second moments asked for (4 · width² bytes for each distinct input of at
most `passes` at a time), and the workspace of one batch of tokens. Hidden states live in files.
"""

import ggufkit.layers.torch_threads  # noqa: F401 - must be the first to import torch
from ggufkit.layers.device import (
    borrowed_device,
    choose_device,
    fast_halves,
    fast_products,
    keeping_freed_memory,
    return_freed_memory,
)
from ggufkit.layers.hidden import HiddenStates, KeptStates, Room
from ggufkit.layers.linears import Linear, Stage, from_file_rows, to_file_rows
from ggufkit.layers.model import EMBEDDING, StreamedModel
from ggufkit.layers.moments import Moments, embed, gathering, moments_for, passes, run_layer
from ggufkit.layers.shards import Shards

__all__ = [
    "EMBEDDING",
    "HiddenStates",
    "KeptStates",
    "Linear",
    "Moments",
    "Room",
    "Shards",
    "Stage",
    "StreamedModel",
    "borrowed_device",
    "choose_device",
    "embed",
    "fast_halves",
    "fast_products",
    "from_file_rows",
    "gathering",
    "keeping_freed_memory",
    "moments_for",
    "passes",
    "return_freed_memory",
    "run_layer",
    "to_file_rows",
]
