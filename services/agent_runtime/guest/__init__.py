"""The first process of a tenant's machine: sets it up, keeps the runtime alive, and shuts it down."""
