"""Whether the chart's Job runs because its release is being uninstalled: pure.

`helm template | kubectl apply`, kustomize and GitOps tools may create the Job of helm's hook like
any other object, while the operator is wanted. A Job cannot ask helm, so it looks at what tools
leave on the objects:

- helm, and what is built with it (Flux, Terraform), marks each object of a release, and only those,
  with `meta.helm.sh/release-name`. It creates the Job of a `pre-delete` hook only to uninstall.
- `kubectl apply` writes what it applied into an annotation. Server-side apply notes in
  `managedFields` who applied which fields. Whoever applied the Deployment without helm's mark
  applied rendered manifests.
- Argo CD marks what it creates with `argocd.argoproj.io/tracking-id`. It treats `pre-delete` as its
  own `PreDelete` since version 3.3, and ignored it before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

HOOK = "helm.sh/hook"
RELEASE = "meta.helm.sh/release-name"
APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
ARGO_CD = "argocd.argoproj.io/tracking-id"


def why_not(job: Mapping[str, Any], operator: Mapping[str, Any]) -> str:
    """Return why this is no uninstall of the operator's Deployment; an empty text if it is one."""
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
    """Yield who wrote an object by server-side apply."""
    for entry in thing["metadata"].get("managedFields", ()):
        if entry.get("operation") == "Apply" and not entry.get("subresource"):
            yield entry["manager"]


def _appliers_of_rendered(thing: Mapping[str, Any]) -> Iterator[str]:
    """Yield who did so without helm's mark."""
    for entry in thing["metadata"].get("managedFields", ()):
        fields = entry.get("fieldsV1", {}).get("f:metadata", {}).get("f:annotations", {})
        if entry.get("operation") == "Apply" and f"f:{RELEASE}" not in fields:
            yield entry["manager"]
