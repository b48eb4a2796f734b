"""Policies: which engine a request goes to, and why. `base` says what one is."""
