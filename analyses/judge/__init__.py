"""How faithful is a caption to what is heard and seen, and who says so?

Names are imported when they are first used (`__init__.pyi` lists them): inspect-ai and
sentence-transformers take seconds, and a command that only asks for help needs neither.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
