"""The replica's process: one scorer on one device, what feeds it and what watches over it."""
