"""Short scripts to start from; the tests run them."""
