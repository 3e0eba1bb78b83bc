"""What runs on the cluster for all tenants: one file per service."""
