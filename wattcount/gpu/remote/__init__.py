"""GPUs of another machine: `wattcount sampler --listen` there, `power.remote=HOST:PORT` here (docs/remote.md).

    client ---- calls, pings -------> listener ---> NVML, the native sampler's threads
           <--- answers, events ----

`wire`      messages that only who knows the shared secret can make
`clock`     the difference of both machines' CLOCK_MONOTONIC, and what bounds it
`client`    NVML and the sampler's threads as a session and a `PowerSampler` use them
`listener`  the other end
"""
