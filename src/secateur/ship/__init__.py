"""Saving, loading and reading weights, without ever unpickling code."""
