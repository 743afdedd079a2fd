"""What engines behind HTTP share: the client, what serves at a URL, and what it counts."""
