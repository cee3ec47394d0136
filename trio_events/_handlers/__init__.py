"""Handlers: registering them, calling them, what becomes of failures, and how all of it ends."""
