"""What Exoscale sells us: SKS, its nodes and network, object storage."""
