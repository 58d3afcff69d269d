"""What a policy can find out with the traffic it will get, before anybody runs it: the answers of `crossfade plan`.

    load       the traffic expected, and what stable answers like
    runs       many simulated rollouts of one gate at once, by the test that ships (`policies.gates.gate_test`)
    course     what those runs say: when a trouble is seen, the smallest that is seen, when a good candidate passes
    sizes      which troubles a gate is asked about
    phases     the stages: who gets how many requests, what ends a stage
    plan       all stages and gates of a policy, its schedule: an `answer`
    sentences  the same in words
    warnings   where the policy cannot decide, and a value that would

Pure: randomness comes from a seed, so the same policy and load give the same plan on every machine.
"""
