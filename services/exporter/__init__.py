"""The exporter: figures of tenants for Prometheus that no other part of the platform has."""
