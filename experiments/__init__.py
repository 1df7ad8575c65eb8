"""Programs that train something and say how well: one file an experiment, all reached by the `xent` command."""
