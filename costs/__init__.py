"""The cost of each tenant in a month: the ledger's hours at the price list, against price and invoice."""
