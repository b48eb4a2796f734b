"""What the router knows of one engine: where it is, what it serves, how it is doing."""
