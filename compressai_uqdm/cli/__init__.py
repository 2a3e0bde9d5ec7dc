"""The command line, ``uqdm``.

``app`` defines commands and options. ``encode``, ``decode``, ``truncate`` and ``info`` work
on one input, ``batch`` on several, in ``workers`` and ``launched`` processes. ``paths``,
``inputs`` and ``outputs`` find, read and write files; ``streams`` prepares the standard
streams; ``progress`` draws the progress bar, ``terminal`` formats messages. ``demo`` is a
command of its own. PyTorch takes seconds to import, so only what runs a network imports it.
"""

from .app import main, run

__all__ = ["main", "run"]
