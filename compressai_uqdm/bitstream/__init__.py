"""Symbols and bytes: the range coder and the integer tables that it codes with."""
