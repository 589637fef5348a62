"""What wins accuracy back by changing weights, ranges or both: one method per file."""
