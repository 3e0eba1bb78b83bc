"""The one way in to a tenant's agents: checks who asks, wakes what sleeps, records activity, passes it on."""
