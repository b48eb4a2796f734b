"""One engine behind HTTP, a file per resource."""
