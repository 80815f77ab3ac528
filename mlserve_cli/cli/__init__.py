"""What a person types: a file per command; each is a signature, one call and one print."""
