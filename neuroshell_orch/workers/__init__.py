"""Mechanism: starting, talking to, measuring and ending worker processes. Decides nothing."""
