"""Seeing what the gradients of tasks do to each other and to the update."""
