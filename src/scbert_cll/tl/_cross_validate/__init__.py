"""tl.cross_validate: every model on the same folds, donors held out."""
