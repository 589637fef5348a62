"""Searches over recipes: which ops to leave in float so that the metric meets a target."""
