"""Handlers: registering them, calling them, treating their failures, and ending them."""
