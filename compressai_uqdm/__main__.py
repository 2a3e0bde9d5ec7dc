"""``python -m compressai_uqdm``, the same as ``uqdm``."""

import sys

from .cli import main

sys.exit(main())
