"""Request-level serving simulation on a logical clock: no I/O, no printing, no model; numbers in, arrays out.

`types` says what goes in and comes out, `engine` runs it over the compiled `kernel`, `reference` is the oracle that the
kernel equals event for event, `metrics` measures an outcome. What comes next has its place: a KV tier below HBM is
where `kernel.cache` forgets a block and where admission finds none; experts that drift are another `StepCost` from a
moment on; a failure is a `cancel` of what a rank holds and a rank that takes nothing.
"""
