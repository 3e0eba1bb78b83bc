"""Attacks on the running platform: what a tenant tries with its own credentials against every other tenant.

An attack is one operation. Tried by the attacker, it must be refused in the server's own words; tried once
more by somebody who may (the victim itself, or the administrator), it must succeed: only then was it the
right that was missing, and not the object, the spelling or the server. Anything else is no proof, and fails
the run as much as a leak does.

What needs no right is harm (`harm`, `harms`): it is denied if the victim's work goes on, or the platform gets
rid of it, all the same; and it is proven by the harm that it does where nothing stands against it.

One file per server tells how to enter it, what is planted there, and what is tried; all of it is removed
again. `network` tries nothing: it decides by the specification what the NetworkPolicies let through.
"""
