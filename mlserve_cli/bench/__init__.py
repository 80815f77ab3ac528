"""How fast a package is: engines in this process, interleaved, with intervals."""
