"""Monitoring: what Prometheus scrapes, which alerts it raises, what Grafana shows, and who runs them."""
