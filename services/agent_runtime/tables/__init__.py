"""The tenant's tables for agents: the agents themselves, their memory, conversations and runs.

The tables are those of `infra/tenants/migrations`. Each method raises what `Database.connection` does,
besides what it names.
"""
