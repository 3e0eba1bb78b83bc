"""What agents keep in the tenant's tables: themselves, their memory, their conversations and their runs.

The tables are those of `infra/tenants/migrations`. Each method raises what `Database.connection` does,
besides what it names.
"""
