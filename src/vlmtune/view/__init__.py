"""All runs of a folder in a browser: `server` answers requests of this machine with what `pages` draws."""
