"""Whether the chart's Job runs because its release is being uninstalled: what tools leave."""

import pytest

from incumbent.cli.uninstall import why_not

HELM = {"meta.helm.sh/release-name": "incumbent", "meta.helm.sh/release-namespace": "incumbent"}
HOOK = {"helm.sh/hook": "pre-delete"}
APPLIED = {"kubectl.kubernetes.io/last-applied-configuration": "{}"}
TRACKED = {"argocd.argoproj.io/tracking-id": "incumbent:batch/Job:incumbent/incumbent-cleanup"}


def entry(manager, *annotations, operation="Apply", **more):
    """Return who wrote an object, and which annotations."""
    fields = {f"f:{name}": {} for name in annotations}
    written = {"f:metadata": {"f:annotations": fields}, "f:spec": {}}
    return {"manager": manager, "operation": operation, "fieldsV1": written, **more}


def thing(annotations, *managers, **metadata):
    """Return an object."""
    return {"metadata": {"annotations": annotations, "managedFields": managers, **metadata}}


BY_HELM_3 = thing(HELM, entry("helm", *HELM, operation="Update"))
BY_HELM_4 = thing(HELM, entry("helm", *HELM))
JOB_OF_HELM_3 = thing(HOOK, entry("helm", *HOOK, operation="Update"))
JOB_OF_HELM_4 = thing(HOOK, entry("helm", *HOOK))
STATUS = entry("kube-controller-manager", operation="Update", subresource="status")


@pytest.mark.parametrize(
    ("job", "operator"),
    (
        (JOB_OF_HELM_3, BY_HELM_3),
        (JOB_OF_HELM_4, BY_HELM_4),
        # installed by one version, and uninstalled by the other, or by another program
        (JOB_OF_HELM_4, BY_HELM_3),
        (JOB_OF_HELM_3, BY_HELM_4),
        (thing(HOOK, entry("helm-controller", *HOOK)), BY_HELM_4),
        (thing(HOOK, entry("terraform-provider-helm", operation="Update")), BY_HELM_4),
        # an upgrade by another program wrote some fields only
        (
            thing(HOOK, entry("helm-controller", operation="Update")),
            thing(HELM, entry("helm", *HELM), entry("helm-controller", operation="Update")),
        ),
        # somebody scaled it by hand
        (
            thing(HOOK, entry("kubectl")),
            thing(HELM, entry("helm", *HELM), entry("kubectl", operation="Update")),
        ),
        (JOB_OF_HELM_4, thing(HELM, entry("helm", *HELM), STATUS)),
        # the Deployment goes already, whoever made it
        (thing({}), thing({}, deletionTimestamp="2026-11-30T12:00:00Z")),
        # Argo CD runs the hook of helm as its own PreDelete
        (thing(HOOK | TRACKED, entry("argocd-controller")), thing(TRACKED)),
    ),
)
def test_a_release_that_is_being_uninstalled_is_recognized(job, operator):
    """By any version of helm, and by what is built with it."""
    assert why_not(job, operator) == ""


@pytest.mark.parametrize(
    ("job", "operator", "reason"),
    (
        # helm template | kubectl apply, with and without --server-side, kustomize, GitOps
        (thing(HOOK | APPLIED), thing(APPLIED), "helm did not install the operator"),
        (thing(HOOK, entry("kubectl")), thing({}, entry("kubectl")), "helm did not install"),
        (
            thing(HOOK, entry("kustomize-controller")),
            thing({}, entry("kustomize-controller")),
            "helm did not install the operator",
        ),
        # the same over what helm had installed
        (thing(HOOK | APPLIED), thing(HELM | APPLIED), "helm did not create this Job"),
        (
            thing(HOOK, entry("kubectl", *HOOK)),
            thing(HELM, entry("helm", *HELM), entry("kubectl", "example.com/owner")),
            "helm did not create this Job",
        ),
        # a tool that takes the annotations of hooks away
        (thing({}, entry("kubectl")), BY_HELM_4, "no hook"),
        (thing(TRACKED, entry("argocd-controller")), thing(TRACKED), "no hook"),
        (thing({"helm.sh/hook": "post-install"}), BY_HELM_4, "no hook"),
    ),
)
def test_rendered_manifests_are_no_uninstall(job, operator, reason):
    """The operator is wanted."""
    assert reason in why_not(job, operator)
