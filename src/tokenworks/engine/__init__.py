"""Request-level serving simulation on a logical clock: no I/O, no printing, no model; numbers in, arrays out.

`types` holds input and output, `policies` the scheduling policies, `outside` the kinds of events from outside, `tiers`
and `faults` the rules of KV tiers and of failures.
`simulator` runs the compiled `kernel`. `reference` is slow and readable; the kernel gives the same results, event for
event. `metrics` measures an outcome.

Where to add a feature:
- a scheduling policy that combines known traits is a row of `policies.POLICIES`
- an event at a given time is a kind in `outside.KINDS`, with a branch in `kernel.outside.happen` and one in
  `reference_faults.ReferenceFaults.play`
- a movement of bytes, such as weights or KV, is a flow over records of `state.LINK`, booked by `kernel.transfer.book`
- a KV tier below HBM stores blocks where `kernel.cache` evicts them, and serves admission when it misses a block
"""
