"""Pictures in .uqdm files. ``docs/format.md`` specifies them byte by byte.

``container``, ``header``, ``v2`` and ``rate`` need neither PyTorch nor a network.
"""
