"""The command line, ``uqdm``.

``commands`` says what can be given, ``tasks`` what is done with one input, ``running`` how
many are worked on, ``places`` where they come from and go, ``streams`` prepares the
standard streams, ``terminal`` says what is shown, and ``demo`` is a command of its own.
PyTorch takes seconds to import, so only what runs a network imports it.
"""

from .commands import main, run

__all__ = ["main", "run"]
