"""Samples in, one adapter out; always its own process."""
