"""What is done for each view, and whether it can be done in the time there is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from featurechaos.config.mistakes import Mistake, Path, near
from featurechaos.config.settings import DEFAULT_TIMEOUT_S, Source, ViewPolicy, hedged_orders
from featurechaos.config.spec import LastKnown, Policy, ViewPolicySpec, ViewSpec

RESERVE_S = 0.005
"""Kept back from every deadline for what is answered from memory, and for decoding."""
_ROUNDING_S = 1e-9


def check_order(order: Sequence[str], sources: Mapping[str, Any], path: Path) -> None:
    """Every name of an order is a source's, once."""
    for index, name in enumerate(order):
        if name not in sources:
            raise Mistake((*path, index), f"there is no source {name!r}, {near(name, sources)}")
        if name in order[:index]:
            raise Mistake((*path, index), f"the source {name!r} is there twice")


def make(policy: Policy, specs: Sequence[ViewSpec], sources: Mapping[str, Source]) -> dict[str, ViewPolicy]:
    """One policy for each view; `policy.order` is filled in."""
    made = {}
    for index, spec in enumerate(specs):
        own = spec.policy or ViewPolicySpec()
        check_order(own.order, sources, ("views", index, "policy", "order"))
        made[spec.name] = _merged(spec.name, policy, own, sources)
    return made


def _merged(view: str, policy: Policy, own: ViewPolicySpec, sources: Mapping[str, Source]) -> ViewPolicy:
    written = own.model_fields_set
    order = own.order or policy.order
    return ViewPolicy(
        view=view,
        order=order,
        online=tuple(name for name in order if sources[name].is_online),
        local=tuple(name for name in order if not sources[name].is_online),
        on_missing=own.on_missing if "on_missing" in written else policy.on_missing,
        on_expired=own.on_expired if "on_expired" in written else policy.on_expired,
        on_exhausted=own.on_exhausted if "on_exhausted" in written else policy.on_exhausted,
        last_known=_last_known(policy.last_known, own.last_known) if "last_known" in written else policy.last_known,
    )


def _last_known(whole: LastKnown | None, own: LastKnown | None) -> LastKnown | None:
    """A view's part laid over what holds for all; null turns it off for the view."""
    if own is None:
        return None
    return (whole or LastKnown()).model_copy(update={name: getattr(own, name) for name in own.model_fields_set})


def bypassed(policy: Policy, policies: Mapping[str, ViewPolicy]) -> tuple[Policy, dict[str, ViewPolicy]]:
    """The same policies with nothing in the way: one read of each view's first online source, and its defaults.

    A view that no online source is asked for stays as it is.
    """
    plain = dict.fromkeys(("retry", "breaker", "empty", "hedge", "shadow", "last_known"))
    return policy.model_copy(update=plain), {
        name: replace(one, order=one.online[:1], online=one.online[:1], local=(), last_known=None)
        if one.online
        else replace(one, last_known=None)
        for name, one in policies.items()
    }


def check_times(policy: Policy, policies: Mapping[str, ViewPolicy], sources: Mapping[str, Source]) -> None:
    """Refuse a slowness that can never be seen, and a plan that cannot fit its deadline."""
    orders: dict[tuple[str, ...], str] = {}
    for view in policies.values():
        orders.setdefault(view.online, view.view)
    for name in dict.fromkeys(name for order in orders for name in order):
        timeout = sources[name].timeout_s or DEFAULT_TIMEOUT_S
        if policy.breaker and policy.breaker.slow_s >= timeout:
            slow = policy.breaker.slow_s
            reason = f"wanted less than sources.{name}.timeout_s, which is {timeout:g}, got {slow:g}"
            raise Mistake(("policy", "breaker", "slow_s"), reason)
    longest = max(orders, key=lambda order: plan_s(policy, order, sources))
    needed = plan_s(policy, longest, sources)
    if needed > policy.deadline_s + _ROUNDING_S:
        terms = ", ".join(_term(policy, sources[name]) for name in longest)
        reason = (
            f"wanted at least {needed:g} for what view {orders[longest]!r} may take ({terms}, "
            f"{RESERVE_S:g} in reserve), got {policy.deadline_s:g}"
        )
        raise Mistake(("policy", "deadline_s"), reason)


def check_hedge(policy: Policy, policies: Mapping[str, ViewPolicy], sources: Mapping[str, Source]) -> None:
    """Refuse a hedge that has no replica to go to, and waits that can't be."""
    hedge, path = policy.hedge, ("policy", "hedge")
    if hedge is None:
        return
    if hedge.after_max_s is not None and hedge.after_max_s < hedge.after_min_s:
        reason = f"wanted at least after_min_s, which is {hedge.after_min_s:g}, got {hedge.after_max_s:g}"
        raise Mistake((*path, "after_max_s"), reason)
    hedged = hedged_orders(policies, sources)
    if not hedged:
        raise Mistake(path, "wanted a replica as the second online source of some view's order, got none")
    name = "after_min_s" if hedge.after_max_s is None else "after_max_s"
    for source, _ in hedged.values():
        timeout = sources[source].timeout_s or DEFAULT_TIMEOUT_S
        if (wait := getattr(hedge, name)) >= timeout:
            reason = f"wanted less than sources.{source}.timeout_s, which is {timeout:g}, got {wait:g}"
            raise Mistake((*path, name), reason)


def plan_s(policy: Policy, online: Sequence[str], sources: Mapping[str, Source]) -> float:
    """The longest a read may take: all attempts at every online source, the waits between, the reserve."""
    attempts = policy.retry.attempts if policy.retry else 1
    reads = sum(attempts * (sources[name].timeout_s or DEFAULT_TIMEOUT_S) for name in online)
    return reads + len(online) * waits_s(policy) + RESERVE_S


def waits_s(policy: Policy) -> float:
    """All waits between the attempts at one source, at their longest: doubling from the first."""
    if not policy.retry:
        return 0.0
    return float(policy.retry.wait_first_s * (2 ** (policy.retry.attempts - 1) - 1))


def _term(policy: Policy, source: Source) -> str:
    attempts = policy.retry.attempts if policy.retry else 1
    return f"{source.name} {attempts} x {source.timeout_s or DEFAULT_TIMEOUT_S:g} + {waits_s(policy):g} of waits"


def check_reference(name: str | None, sources: Mapping[str, Source]) -> None:
    """The reference is a source that exists; it need not be in any order."""
    if name is not None and name not in sources:
        raise Mistake(("impact", "reference_source"), f"there is no source {name!r}, {near(name, sources)}")
