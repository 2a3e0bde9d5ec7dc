"""``python -m compressai_uqdm``, the same as ``uqdm``."""

import sys

from .command import main

sys.exit(main())
