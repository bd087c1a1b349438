"""Models as folders: found, opened, checked, recognised and written. Needs no Jittor."""
