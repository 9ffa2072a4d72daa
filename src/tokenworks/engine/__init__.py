"""Request-level serving simulation on a logical clock: no I/O, no printing, no model; numbers in, arrays out.

`types` says what goes in and comes out, `policies` how a rank may schedule, `outside` what may happen to a request from
outside. `simulator` runs it over the compiled `kernel`, `reference` is the oracle that the kernel equals event for
event, `metrics` measures an outcome.

What comes next has its place. A scheduling policy that combines known traits is a row of `policies.POLICIES`. What
happens at a time of its own, such as a failure or experts that drift (another `StepCost` from a moment on), is a kind
in `outside.KINDS`, played by `kernel.outside.happen` and by `Reference.kinds`. Bytes that move, such as weights, or KV
to and from a tier below HBM, are a flow over records of `state.LINK`, booked by `kernel.transfer.book`; that tier is
where `kernel.cache` forgets a block and where admission finds none.
"""
