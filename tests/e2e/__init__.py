"""domctl as users run it: `domctl serve` as a process, real hosts, a real etcd, commands typed."""
