"""The accounting: keeps the ledger of what tenants use, in PostgreSQL.

Each minute it tells PostgreSQL whose machines ran, what gateways have counted, and what was last measured of
objects and backups; `infra/platform/ledger.sql` counts. It decides nothing and keeps nothing: whatever it was
killed in the middle of, the next one goes on from what is counted.
"""
