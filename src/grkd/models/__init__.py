"""Models: loading, cutting, networks for classifiers, and sampling text from them."""
