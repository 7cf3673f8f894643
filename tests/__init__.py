"""The tests, by what they need: unit and property (nothing), contract (every implementation of a port,
held to one suite), lab and e2e (real libvirt hosts and etcd), house (lint, types, layers), bench (figures,
run by hand). `tests/run` runs them all."""
