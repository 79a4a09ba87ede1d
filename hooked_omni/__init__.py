"""Find out what audio-visual language models really see and hear.

`load` a model, `embed` a prompt, and run the decoder with TransformerLens's hooks: cache, patch,
knock out, caption. `prove` shows that its logits are Hugging Face's.

Names are imported when they are first used (`__init__.pyi` lists them): the half that embeds clips
needs neither TransformerLens nor the newest transformers.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
