"""specs: what is wanted. Pure data: kinds, fields, validation, schema, XML, digests; no I/O, no clock.

meta, domain, node, kinds       the objects, typed and frozen
yamldoc, walker, problems       files to values, and every problem at once with its place
yamlout                         values to YAML that every reader takes the same way
validate, *rules, later, paths  what fits the types and still cannot be
schema                          JSON Schema and OpenAPI, generated from the types
domainxml, overlay*, macs, mark, digest     the libvirt definition that a Domain becomes
xmldiff                         what a definition lacks of what is wanted
quantity, uri, ages             small languages: 512Mi, qemu+tcp://host/system, 3m12s
examples/                       what the demo applies; below it what needs hosts that the demo has not
"""
