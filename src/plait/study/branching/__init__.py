"""Finding out which tasks should share which parts of a backbone."""
