"""The pool: a router and its replicas as Ray Serve deployments."""
