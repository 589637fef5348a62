"""The ``vit`` sample: architecture, weights and the script that trained them."""
