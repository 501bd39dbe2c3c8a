"""The role of every replica in the mode `Observed`: the label follows the holder of the record."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from incumbent import clock
from incumbent.campaign.machine import Campaign
from incumbent.kubernetes.objects import Pod
from incumbent.pods.election_labels import together
from incumbent.pods.eligibility import meant_pod, shows, why_none, why_not
from incumbent.pods.intent import Intent
from incumbent.reconciler.adapters import Adapters


class ObservedReconciler:
    """Labels the pod that the live record means, and no other.

    This replica writes nothing to the bucket, so no write proves that its view of the record is
    new. An annotation takes the place of that write (`intent`). After the annotation the replica
    reads the record from the stream's leader again. Between clusters only the promises of the
    members hold. Each replica does this work. At rest no replica writes.

    Args:
        adapters: of the election. The driver watches the key; it must not campaign.
    """

    def __init__(self, adapters: Adapters) -> None:
        self._site = adapters.site
        self._driver = adapters.driver
        self._labels = labels = adapters.labels
        self._routing = adapters.routing
        self._wake = adapters.wake
        self._intent = Intent(
            adapters.cluster,
            strip=lambda pod: labels.strip_all([self._seen(pod)]),
            strip_all_but=labels.strip_others,
        )
        self._answers = False
        """Whether we labelled a pod, and so strip it if nobody can tell who leads."""

    @property
    def unrecognised(self) -> str:
        """Why the holder of the live record means no pod; empty if it does, or nobody holds it."""
        record = self._driver.record
        if record is None:
            return ""
        return why_none(record, self._site, self._labels.known, self._labels.resource)

    @property
    def leader(self) -> Pod | None:
        """The pod that carries the leader label by right."""
        held = self._held
        return held[0] if held is not None and self._shows(*held) else None

    async def settle(self, campaign: Campaign, *, withdrawn: bool, blind: bool) -> bool:
        """Bring the labels in line; return whether there is nothing left to try again soon.

        A replica that cannot read the record changes nothing while somebody may still renew the
        record. Then it strips the pods that it labelled itself.
        """
        settled = await self._settle(campaign, withdrawn=withdrawn, blind=blind)
        self._labels.mark_soon(lambda: self.leader, list)
        return settled

    async def _settle(self, campaign: Campaign, *, withdrawn: bool, blind: bool) -> bool:
        if campaign.record is not None and (left := campaign.lapse_at - clock.now()) > 0:
            self._wake(left)  # without markers nobody tells that it has lapsed
            if blind:
                return True
        held = None if withdrawn else self._held
        uid = held[0].uid if held is not None else ""
        strays = [pod for pod in self._labels.suspects if pod.uid != uid]
        if not blind and not await self._route(campaign, held, withdrawn=withdrawn):
            return False
        if not strays and (held is None or self._shows(*held)):
            return True
        if blind:
            if withdrawn or self._answers:
                await together(self._routing.empty(), self._labels.strip_all(strays))
            self._answers = False
            return True
        if not await self._driver.look() or not (withdrawn or held == self._held):
            return False  # look at everything again
        await self._labels.strip_all(strays)
        return held is None or await self._label(campaign, *held)

    async def _route(
        self, campaign: Campaign, held: tuple[Pod, int] | None, *, withdrawn: bool
    ) -> bool:
        """Bring the Service's slices in line; return whether that is done."""
        if held is None:
            if await self._routing.may_reach_somebody():
                if not await self._driver.look() or not (withdrawn or self._held is None):
                    return False
                await self._routing.empty()
            return True
        pod, token = held
        await self._routing.prepare(1)
        await self._routing.look()
        warrant, until = self._warrant(pod, token), lambda: campaign.lapse_at
        done = await self._routing.point(pod, token=token, warrant=warrant, until=until)
        self._answers = self._answers or (done and self._routing.asked_for)
        return done

    def _warrant(self, pod: Pod, token: int) -> Callable[[], Awaitable[int | None]]:
        async def warrant() -> int | None:
            looked, held = await self._driver.look(), self._held
            same = held is not None and (held[0].uid, held[1]) == (pod.uid, token)
            return token if looked and same else None

        return warrant

    async def _label(self, campaign: Campaign, pod: Pod, token: int) -> bool:
        look, until = self._warrant(pod, token), lambda: campaign.lapse_at

        async def warrant() -> int | None:
            await self._intent.announce(self._labels.resource, pod)
            return await look()

        done = await self._labels.add(pod, warrant=warrant, until=until, first=True)
        self._answers = self._answers or done is not None
        return done is not None

    @property
    def _held(self) -> tuple[Pod, int] | None:
        """The candidate that holds the live record, and its token; a stranger has none: 0."""
        campaign = self._driver.campaign
        record = campaign.record if campaign is not None else None
        if campaign is None or record is None or clock.now() >= campaign.lapse_at:
            return None
        pod = meant_pod(record, self._site, self._labels.known, self._labels.resource)
        if pod is None or why_not(pod, self._labels.resource.selector):
            return None
        return pod, 0 if record.stranger else record.term

    def _seen(self, pod: Pod) -> Pod:
        """Return a pod as last seen, if it was."""
        return next((one for one in self._labels.known if one.uid == pod.uid), pod)

    def _shows(self, pod: Pod, token: int) -> bool:
        return shows(pod, self._labels.resource, token)
