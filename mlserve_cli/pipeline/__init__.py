"""What joins several steps: a variant with its gates, and what `mlserve up` was given."""
