"""A run of two seconds on the tiny engine, as overrides: nothing in it is judged by how busy the machine is."""

SHORT_RUN = (
    "model=tiny", "engine=tiny", "tracking=none", "scenario=batch", "scenario.num_requests=4", "scenario.warmup_requests=0",
    # 15 steps of 40 ms: too few to tell whether the engine stood still, so a busy machine makes no run invalid.
    "scenario.lengths.input_tokens=8", "scenario.lengths.output_tokens=15", "engine.args.step_base_ms=40",
    "scenario.bare_idle_s=0.2", "scenario.loaded_idle_s=0.2", "scenario.bare_idle_after_s=0.2", "power.probe=false",
)  # fmt: skip
