"""Symbols and bytes: the range coder and the integer CDF tables that it codes with."""
