"""Networks behind a functional door: a builder gives `(apply, params)`."""
