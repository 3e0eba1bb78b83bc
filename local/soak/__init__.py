"""Twenty tenants do harm at random for ten minutes, while updates add, migrate, move and remove five others.

Each update is also made for five more while nobody does harm: what the quiet tenants' work takes during the
ones and the others is compared. The parts: `cast` says who is in the roster, `updates` makes the updates,
`attackers` do harm, `witness` is whose work is measured, and `figures` sums up. All of it happens in a
checkout that is thrown away.

Left out of what is tried: the shared runtime's intruder, who is none of the tenants, and the network, where
nothing is sent. Slices are not moved: that is a change of the engine's files, which no tenant reaches.
"""
