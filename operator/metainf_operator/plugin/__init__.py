"""What `kubectl metainf` does, one module for each subcommand.

Separate from the operator's own modules: a person calls these, with their own rights, and only `pin --apply` and
`unpin --apply` write. Selection, inventory and ledger are the operator's, so that the answers are too.
"""
