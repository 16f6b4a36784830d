"""Does this installation, or this frozen app, compute? Needs no network and no bundle. Knows the runtime alone."""
