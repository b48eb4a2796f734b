"""Engines the router starts itself: their commands, their lives, their logs."""
