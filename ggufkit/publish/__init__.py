"""Upload a result directory to Hugging Face or ModelScope: what is complete, and only what is not there yet.

`pack` finds the complete `models` that a `selection` takes, with what Ollama reads of a repository (`chat`) and what tells
of them, as a `parcel`; `send` uploads it.
"""

from ggufkit.publish.parcel import Parcel, Upload, Wanted, pack, tells_base_model
from ggufkit.publish.selection import Selection
from ggufkit.publish.send import send

__all__ = ["Parcel", "Selection", "Upload", "Wanted", "pack", "send", "tells_base_model"]
