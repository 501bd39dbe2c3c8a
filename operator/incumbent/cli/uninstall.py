"""Check whether the chart's Job runs because its release is being uninstalled: pure.

`helm template | kubectl apply`, kustomize and GitOps tools may create the Job of helm's hook like
any other object, although the operator should stay. A Job cannot ask helm, so it looks at the marks
that tools leave on the objects:

- helm, and tools that are built with it (Flux, Terraform), mark each object of a release, and no
  others, with `meta.helm.sh/release-name`. helm creates the Job of a `pre-delete` hook only for an
  uninstall.
- `kubectl apply` writes the applied manifest into an annotation. Server-side apply records in
  `managedFields` which manager applied which fields. A manager that applied the Deployment without
  helm's mark applied rendered manifests.
- Argo CD marks the objects that it creates with `argocd.argoproj.io/tracking-id`. Since version 3.3
  it treats `pre-delete` as its own `PreDelete`. Earlier versions ignored it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

HOOK = "helm.sh/hook"
RELEASE = "meta.helm.sh/release-name"
APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
ARGO_CD = "argocd.argoproj.io/tracking-id"


def why_not(job: Mapping[str, Any], operator: Mapping[str, Any]) -> str:
    """Return why this is not an uninstall of the operator's Deployment; empty if it is one."""
    if "deletionTimestamp" in operator["metadata"]:
        return ""
    if "pre-delete" not in _annotations(job).get(HOOK, ""):
        return "this Job is no hook that runs before a release is deleted"
    if ARGO_CD in _annotations(job):
        return ""
    if RELEASE not in _annotations(operator):
        return "helm did not install the operator, so no release is being uninstalled"
    if APPLIED in _annotations(job) or set(_appliers(job)) & set(_appliers_of_rendered(operator)):
        return "helm did not create this Job, so no release is being uninstalled"
    return ""


def _annotations(thing: Mapping[str, Any]) -> Mapping[str, str]:
    annotations: Mapping[str, str] = thing["metadata"].get("annotations", {})
    return annotations


def _appliers(thing: Mapping[str, Any]) -> Iterator[str]:
    """Yield the managers that wrote an object by server-side apply."""
    for entry in thing["metadata"].get("managedFields", ()):
        if entry.get("operation") == "Apply" and not entry.get("subresource"):
            yield entry["manager"]


def _appliers_of_rendered(thing: Mapping[str, Any]) -> Iterator[str]:
    """Yield those managers that wrote it without helm's mark."""
    for entry in thing["metadata"].get("managedFields", ()):
        fields = entry.get("fieldsV1", {}).get("f:metadata", {}).get("f:annotations", {})
        if entry.get("operation") == "Apply" and f"f:{RELEASE}" not in fields:
            yield entry["manager"]
