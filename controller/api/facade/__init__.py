"""Kinds of Kubernetes as pictures of domctl's own objects, so that kubectl's own verbs work on them.

    v1 Namespace    namespaces   stored as it is; made when it is first used, gone only when it is empty
    v1 ConfigMap    configmaps   stored as it is, for clients; domctl reads none
    v1 Secret       secrets      stored as it is, encrypted; domains may name it for what their XML must hold
    v1 Node         nodes        a Node of domctl.io: labels, annotations, taints, unschedulable write through
    v1 Pod          pods         a Domain that is active, on its node; read-only
    policy Eviction              of a pod: a Migration of its domain to any other node
    metrics NodeMetrics, PodMetrics            of Nodes and Domains: how busy they are

A picture is computed whenever it is read and stands nowhere; it says nothing that domctl does not know. Its
resourceVersion is that of the object behind it, so lists and watches are those of that object. What cannot be
done by way of a picture is refused, with what to do instead.
"""
