"""Files and folders: their formats, and how they are put in place."""
