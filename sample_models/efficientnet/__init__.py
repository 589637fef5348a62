"""The ``efficientnet`` sample: architecture, weights and the script that trained them."""
