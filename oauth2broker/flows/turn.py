"""When the provider may be asked again. Pure functions of a record and the time."""

from __future__ import annotations

from datetime import datetime, timedelta

from oauth2broker.flows.bounds import Bounds
from oauth2broker.flows.request import CachedTokenRequest, Need
from oauth2broker.provider.descriptor import ProviderDescriptor
from oauth2broker.provider.kinds import RotationPolicy
from oauth2broker.records import LONGEST_SKEW, TokenRecord


def may_rotate(descriptor: ProviderDescriptor) -> bool:
    """Whether presenting a refresh token may spend it."""
    return descriptor.rotation is not RotationPolicy.NEVER


def seconds_to_back_off(record: TokenRecord, bounds: Bounds, now: datetime) -> float:
    """Give the seconds that are left of the back-off written after a failure."""
    if record.retry_at is None:
        return 0.0
    left = (record.retry_at - now).total_seconds()
    return max(left, 0.0) if left <= bounds.longest_retry_after else 0.0  # else the clock went back


def seconds_to_settle(
    request: CachedTokenRequest,
    record: TokenRecord,
    descriptor: ProviderDescriptor,
    bounds: Bounds,
    now: datetime,
) -> float:
    """Give the seconds until a refresh token whose last answer is unknown may be presented again.

    It may be spent, and its successor on the way to whoever asked. So it waits until no answer can still
    arrive and the current token no longer serves; but not where it cannot be spent, or is in its grace.
    """
    if record.attempted_at is None or not may_rotate(descriptor):
        return 0.0
    if is_in_grace(record, descriptor, now):
        return 0.0
    grace = descriptor.reuse_grace or timedelta()  # the last presentation may have been at its very end
    left = max(bounds.settled + (grace - (now - record.attempted_at)).total_seconds(), 0.0)
    if request.window_at(record, now) is Need.MANDATORY or request.rejects(record):
        return left
    if record.expires_at is None:
        return max(left, bounds.longest_retry_after)
    return max(left, (record.expires_at - now).total_seconds())


def is_in_grace(record: TokenRecord, descriptor: ProviderDescriptor, now: datetime) -> bool:
    """Whether the provider still repeats its answer to the attempt that ``record`` is marked with."""
    if record.attempted_at is None or descriptor.reuse_grace is None:
        return False
    return timedelta() <= now - record.attempted_at < descriptor.reuse_grace


def is_from_the_future(instant: datetime | None, now: datetime) -> bool:
    """Whether a clock must have gone back since ``instant`` was written."""
    return instant is not None and instant - now > LONGEST_SKEW
