"""The tour: a tenant's machine sleeps, is woken by a request, idles and sleeps again, as it happens."""
