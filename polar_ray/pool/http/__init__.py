"""The pool's HTTP side: routes, bodies, tokens and the port. Knows no Ray."""
