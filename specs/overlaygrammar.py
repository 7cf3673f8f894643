"""What a fragment in `spec.xml` may contain: an allow list of elements, attributes and the form of values.

An allow list, not a deny list: libvirt's schema grows with every release, and what nobody looked at must
not pass. No value here can be a path (no form but the two random devices has a leading `/`), a program, an
address that others reach, a secret or a namespace. Left out on purpose is also whatever belongs to typed
fields of the spec, because placement counts on them: sources of disks (a local one pins its domain),
memory, vCPUs, NUMA cells (which replace the memory), names and boot devices. `REFUSED` says why the best
known of the missing ones are missing; it adds nothing to the safety of the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from specs.overlaydevices import DEVICES
from specs.overlayforms import (
    COUNT,
    CPUS,
    NUMBER,
    PHRASE,
    SIGNED,
    SWITCH,
    TEXT,
    UNIT,
    WORD,
    ZONE,
    Allowed,
    choice,
    form,
    numbers,
    switches,
)

_HYPERV: Final[Mapping[str, Allowed]] = {
    **switches("relaxed", "vapic", "vpindex", "runtime", "synic", "reset", "frequencies", "evmcs", "avic"),
    **switches("reenlightenment", "tlbflush", "ipi"),
    "stimer": Allowed({"state": SWITCH}, switches("direct")),
    "spinlocks": Allowed({"state": SWITCH, "retries": NUMBER}),
    "vendor_id": Allowed({"state": SWITCH, "value": form(r"[A-Za-z0-9 ]{1,12}", "at most 12 letters")}),
}
_FEATURES: Final[Mapping[str, Allowed]] = {
    **switches("hap", "pmu", "pvspinlock", "vmport", "smm", "vmcoreinfo", "htm", "nested-hv"),
    **dict.fromkeys(("pae", "viridian", "privnet"), Allowed()),
    "apic": Allowed({"eoi": SWITCH}),
    "hyperv": Allowed({"mode": choice("custom", "passthrough")}, _HYPERV),
    "kvm": Allowed(children=switches("hidden", "hint-dedicated", "poll-control", "pv-ipi")),
    "ioapic": Allowed({"driver": choice("kvm", "qemu")}),
    "gic": Allowed({"version": WORD}),
    "msrs": Allowed({"unknown": choice("ignore", "fault")}),
}
_CPU = Allowed(
    {
        "mode": choice("custom", "host-model", "host-passthrough", "maximum"),
        "match": choice("minimum", "exact", "strict"),
        "check": choice("none", "partial", "full"),
        "migratable": SWITCH,
    },
    {
        "model": Allowed({"fallback": choice("allow", "forbid"), "vendor_id": PHRASE}, text=WORD),
        "vendor": Allowed(text=WORD),
        "topology": Allowed(dict.fromkeys(("sockets", "dies", "cores", "threads"), NUMBER)),
        "cache": Allowed({"level": NUMBER, "mode": choice("emulate", "passthrough", "disable")}),
        "maxphysaddr": Allowed({"mode": choice("emulate", "passthrough"), "bits": NUMBER}),
        "feature": Allowed(
            {"name": WORD, "policy": choice("force", "require", "optional", "disable", "forbid")},
            key=("name",),
        ),
    },
)
_CLOCK = Allowed(
    {
        "offset": choice("utc", "localtime", "timezone", "variable"),
        "timezone": ZONE,
        "adjustment": form(r"-?[0-9]{1,12}|reset", "seconds or reset"),
        "basis": choice("utc", "localtime"),
    },
    {
        "timer": Allowed(
            {
                "name": WORD,
                "tickpolicy": choice("delay", "catchup", "merge", "discard"),
                "track": choice("boot", "guest", "wall", "realtime"),
                "present": SWITCH,
                "mode": WORD,
                "frequency": NUMBER,
            },
            {"catchup": Allowed(dict.fromkeys(("threshold", "slew", "limit"), NUMBER))},
            key=("name",),
        )
    },
)
_CPUTUNE = Allowed(
    children={
        **numbers("shares", "period", "global_period", "emulator_period", "iothread_period"),
        **{
            name: Allowed(text=SIGNED)
            for name in ("quota", "global_quota", "emulator_quota", "iothread_quota")
        },
        "vcpupin": Allowed({"vcpu": NUMBER, "cpuset": CPUS}, key=("vcpu",)),
        "emulatorpin": Allowed({"cpuset": CPUS}),
        "iothreadpin": Allowed({"iothread": NUMBER, "cpuset": CPUS}, key=("iothread",)),
    }
)
_MEMORY_BACKING = Allowed(
    children={
        "hugepages": Allowed(
            children={"page": Allowed({"size": NUMBER, "unit": UNIT, "nodeset": CPUS}, key=("size",))}
        ),
        **dict.fromkeys(("nosharepages", "discard"), Allowed()),
        "source": Allowed({"type": choice("anonymous", "memfd")}),
        "access": Allowed({"mode": choice("shared", "private")}),
        "allocation": Allowed({"mode": choice("immediate", "ondemand"), "threads": COUNT}),
    }
)
_NUMA_MODE = choice("strict", "interleave", "preferred", "restrictive")
DOMAIN: Final = Allowed(
    children={
        "title": Allowed(text=TEXT),
        "description": Allowed(text=TEXT),
        "iothreads": Allowed(text=COUNT),
        "vcpu": Allowed({"placement": choice("static", "auto"), "cpuset": CPUS}),
        "memoryBacking": _MEMORY_BACKING,
        "memtune": Allowed(children=numbers("hard_limit", "soft_limit", "swap_hard_limit", unit=True)),
        "blkiotune": Allowed(children=numbers("weight")),
        "cputune": _CPUTUNE,
        "numatune": Allowed(
            children={"memory": Allowed({"mode": _NUMA_MODE, "nodeset": CPUS, "placement": WORD})}
        ),
        "os": Allowed(
            children={
                "bootmenu": Allowed({"enable": SWITCH, "timeout": NUMBER}),
                "bios": Allowed({"useserial": SWITCH, "rebootTimeout": SIGNED}),
            }
        ),
        "features": Allowed(children=_FEATURES),
        "cpu": _CPU,
        "clock": _CLOCK,
        "pm": Allowed(
            children={name: Allowed({"enabled": SWITCH}) for name in ("suspend-to-mem", "suspend-to-disk")}
        ),
        "devices": Allowed(children=DEVICES),
    }
)

_NO_SECRETS = "passwords are refused in fragments; spec.graphics has a screen's out of a Secret"
_FIELD = "belongs to a field of the spec, use that"
_HOST = "reaches into the host"
REFUSED: Final[Mapping[str, str]] = {
    **dict.fromkeys(("@passwd", "@passwdValidTo", "auth", "secret", "encryption", "@password"), _NO_SECRETS),
    **dict.fromkeys(("memory", "currentMemory", "maxMemory", "kernel", "initrd", "cmdline"), _FIELD),
    **dict.fromkeys(("serial", "console", "boot", "mac", "source", "readonly", "@cache", "@dev"), _FIELD),
    **dict.fromkeys(
        ("hostdev", "filesystem", "shmem", "redirdev", "smartcard", "lease", "backingStore"), _HOST
    ),
    **dict.fromkeys(("parallel", "crypto", "resource", "@rendernode", "log", "mirror"), _HOST),
    **dict.fromkeys(("script", "downscript", "emulator", "bootloader"), "names a program that the host runs"),
    **dict.fromkeys(("loader", "nvram", "tpm"), "keeps state on the host, which is not supported yet"),
    **dict.fromkeys(("name", "uuid", "genid"), "is given by the controller"),
    "metadata": "carries the mark by which the controller knows its domains",
    **dict.fromkeys(("seclabel", "launchSecurity", "sysinfo", "keywrap"), "is the administrator's to set"),
    **dict.fromkeys(("on_poweroff", "on_reboot", "on_crash"), "is steered by spec.onReboot and spec.onCrash"),
    "shareable": "is spec.disks[].shareable",
    "numa": "would replace spec.memory",
    "locked": "would let the guest lock the memory of the host",
    "transient": "would lose what the guest writes",
}
