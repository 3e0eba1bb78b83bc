"""What a tenant may do and others must not suffer from, nor the platform stumble over: a file per server.

To add a harm, append a `Harm` to its server's `_HARMS`: `done` does it for as long as its block lasts,
`withstood` is what must succeed meanwhile, and `unguarded` what fails in its place where no care is taken.
A new server is a file with `entered`, and a line in `campaign.HARMED`.
"""
