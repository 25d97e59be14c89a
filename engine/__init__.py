"""Prompts in, verified samples out."""
