"""Forward operators of image reconstruction; each module has one kind."""
