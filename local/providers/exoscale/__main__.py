"""`python -m local.providers.exoscale`: started by the engine, prints its port."""

from local.providers.exoscale.provider import ExoscaleProvider
from local.providers.server import serve

if __name__ == "__main__":
    serve(ExoscaleProvider())
