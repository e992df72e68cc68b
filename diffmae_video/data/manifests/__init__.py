"""One module per family of list and folder layouts; ``data.manifest`` chooses among them."""
