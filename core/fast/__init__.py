"""Clever code for layers that cost much, fenced in: each function has a plain twin of its name in ``plain.py``."""
