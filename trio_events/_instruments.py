"""Instruments watch a bus, as trio's watch a run: the hooks, and whoever calls them."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, final

import attrs

from ._core.notices import InstrumentFailed, Notices
from ._event import Event

if TYPE_CHECKING:
    from ._handlers.supervision import DeadLetter
    from ._names.policy import Action
    from ._subscription import Subscription


class Instrument:
    """Watches an event bus. Subclass it, and override the methods that you need.

    Hand it to `open_event_bus(instruments=...)` or `EventBus.add_instrument`. What it does not
    override costs nothing, and what it does never changes what the bus does: not the order of
    events, nor who waits for whom.

    The methods are called in trio's thread, and must not block. They must not use the bus either:
    operations on it raise `RuntimeError`. A method that raises is logged with its traceback, and
    the bus goes on without that instrument.
    """

    def subscription_opened(self, subscription: Subscription) -> None:
        """A subscription is in force, including what `expect` and `wait_for` open.

        The same object stands for it in every call, so it can be the key of a dictionary.
        """

    def subscription_closed(self, subscription: Subscription) -> None:
        """A subscription matches no more events. What it has may still be read."""

    def before_send(self, event: Event) -> None:
        """A task is about to send an event whose names and permissions have been checked.

        Called in that task and its context variables.
        """

    def after_send(self, event: Event, error: BaseException | None) -> None:
        """The send is over. Called once after `before_send`, in the same place.

        Args:
          event: The event.
          error: What the sender gets, such as `Cancelled` or `WouldBlock`; None if the event was
            accepted.
        """

    def events_routed(
        self, events: Sequence[Event], subscriptions: tuple[Subscription, ...]
    ) -> None:
        """Events have reached their subscriptions. Called in the total order of events.

        Args:
          events: Neighbours in the order, of one system and kind.
          subscriptions: Those that get each of them; none if no subscription matches.
        """

    def events_unmatched(self, events: Sequence[Event]) -> None:
        """No subscription and no history matches these events, and they answer no request.

        Called after `events_routed`, with events of one system and kind.
        """

    def event_received(self, event: Event, subscription: Subscription) -> None:
        """A task has taken an event. Called in that task, before it goes on."""

    def before_handler(self, event: Event, subscription: Subscription) -> None:
        """A handler is about to be called. Called in its task.

        Context variables that this sets are seen by the handler and the tasks that it starts.
        """

    def after_handler(
        self, event: Event, subscription: Subscription, error: BaseException | None
    ) -> None:
        """The call is over. Called once after `before_handler`, in the same task.

        Args:
          event: The event.
          subscription: The subscription of the handler.
          error: What the handler raised, including `Cancelled`.
        """

    def event_failed(self, letter: DeadLetter) -> None:
        """The handling of an event has failed for good."""

    def loss_began(self, subscription: Subscription) -> None:
        """A subscription has dropped its first event of an episode."""

    def loss_ended(self, subscription: Subscription, lost: int) -> None:
        """The episode is over; so many events were lost in it."""

    def senders_stalled(self, subscription: Subscription, seconds: float) -> None:
        """Senders wait for room in a subscription: the first one has for that long."""

    def access_denied(self, actor: str, action: Action, system: str) -> None:
        """The policy has refused an action on a system, or on a pattern of systems."""

    def draining_began(self) -> None:
        """The bus is closing, and its handlers finish what they have."""

    def bus_closed(self) -> None:
        """The bus is closed. What was accepted may still be read."""


def check_instrument(instrument: object) -> None:
    """Require an instrument."""
    if not isinstance(instrument, Instrument):
        hint = ", with parentheses" if isinstance(instrument, type) else ""
        raise TypeError(f"an instrument must be an Instrument, not {instrument!r}{hint}")


NOWHERE: Final = 0
"""No thread at all."""

HOOKS: Final = tuple(name for name in vars(Instrument) if not name.startswith("_"))

Told: TypeAlias = Callable[..., None]
"""Calls a method of an instrument, whatever that does. Not within a step."""


class Door(Protocol):
    """What keeps a method from using the bus."""

    home: int
    thread: int


@final
@attrs.define(eq=False)
class Instruments:
    """The instruments of a bus, and for each hook what to call."""

    _notices: Notices
    _door: Door
    in_step: Any = attrs.field(default=None, init=False)
    """What is told within the step in which something happens: the bus's own events, if somebody
    wants them. It has methods for facts that are no hooks, too."""

    active: bool = attrs.field(default=False, init=False)
    """Whether there is somebody to tell."""

    watched_sends: bool = attrs.field(default=False, init=False)
    watched_calls: bool = attrs.field(default=False, init=False)
    watched_routes: bool = attrs.field(default=False, init=False)
    watched_reads: bool = attrs.field(default=False, init=False)
    on_change: Callable[[], None] = attrs.field(default=lambda: None, init=False)
    """Called when the four above may have changed."""

    on_interests: Callable[[Any], None] = attrs.field(default=lambda actor: None, init=False)
    """Called within a step for the actor of a subscription, or of a history, that matches something
    else now."""

    told: dict[str, tuple[Told, ...]] = attrs.field(init=False)
    """What to call for each hook."""

    is_of_list: bool = attrs.field(default=False, init=False)
    """Whether the event that `event_received` tells of was read together with others."""

    numbers: Iterator[int] = attrs.field(factory=lambda: itertools.count(1), init=False)
    """For subscriptions that are told of."""

    # By the identity of the instrument: itself, and what to call for the hooks that it overrides.
    _instruments: dict[int, tuple[Instrument, dict[str, Told]]] = attrs.field(
        factory=dict, init=False
    )

    def __attrs_post_init__(self) -> None:
        self.told = dict.fromkeys(HOOKS, ())

    def __contains__(self, instrument: Instrument) -> bool:
        return id(instrument) in self._instruments

    def add(self, instrument: Instrument) -> None:
        """Call its methods from now on."""
        hooks = [hook for hook in HOOKS if _overrides(instrument, hook)]
        wired = {hook: self._wired(instrument, hook) for hook in hooks}
        self._instruments[id(instrument)] = instrument, wired
        self.rewire()

    def remove(self, instrument: Instrument) -> None:
        """Call none of its methods any more."""
        del self._instruments[id(instrument)]
        self.rewire()

    def rewire(self) -> None:
        """Find out again who wants to be told of what."""
        all_wired = [wired for _, wired in self._instruments.values()]
        self.told = {
            hook: tuple(wired[hook] for wired in all_wired if hook in wired) for hook in HOOKS
        }
        self.active = bool(self._instruments) or self.in_step is not None
        self.watched_sends = self.wants("before_send") or self.wants("after_send")
        self.watched_calls = self.wants("before_handler") or self.wants("after_handler")
        self.watched_routes = (
            self.wants("events_routed")
            or self.wants("events_unmatched")
            or self.in_step is not None
        )
        self.watched_reads = self.wants("event_received")
        self.on_change()

    def wants(self, hook: str) -> bool:
        """Whether an instrument overrides this."""
        return bool(self.told[hook])

    def tell(self, fact: str, *about: object) -> None:
        """Tell of something that has happened: in a step, or outside of any."""
        if self.in_step is not None:
            with self._notices:
                getattr(self.in_step, fact)(*about)
        if self.told.get(fact):
            self._notices.after_step(partial(self._call, fact, *about))

    def tell_one(self, instrument: Instrument, hook: str, *about: object) -> None:
        """Call a method of one instrument, if it overrides that."""
        _, wired = self._instruments[id(instrument)]
        if hook in wired:
            wired[hook](*about)

    def _call(self, hook: str, *about: object) -> None:
        for told in self.told[hook]:
            told(*about)

    def around(self, before: str, after: str, *about: object) -> Around:
        """Tell of what is about to happen; at the end of the block that is returned, that it has.

        That is told to those that were there before it, and still are.
        """
        told_after = self.told[after]
        for told in self.told[before]:
            told(*about)
        return Around(told_after, about)

    def _wired(self, instrument: Instrument, hook: str) -> Told:
        # In one piece, because it is called several times for each event.
        method, key = getattr(instrument, hook), id(instrument)
        present, door = self._instruments, self._door

        def told(*about: object) -> None:
            if key not in present:  # it has just been removed, because it raised
                return
            # The collector may run destructors, which may close subscriptions: not now.
            collects = gc.isenabled()
            gc.disable()
            door.thread = NOWHERE
            failure: BaseException | None = None
            try:
                method(*about)
            except BaseException as error:  # noqa: ASYNC103, BLE001  # it must not break what it watches
                failure = error
            door.thread = door.home
            if collects:
                gc.enable()
            if failure is not None:
                self._give_up(instrument, hook, failure)
                del failure  # no reference cycle

        return told

    def _give_up(self, instrument: Instrument, hook: str, failure: BaseException) -> None:
        self.remove(instrument)
        self._notices.add(InstrumentFailed(type(instrument).__qualname__, hook, failure))


@final
class Around:
    """A block after which instruments are told. In plain slots: there is one for each send."""

    __slots__ = ("_about", "_told")

    def __init__(self, told: tuple[Told, ...], about: tuple[object, ...]) -> None:
        self._told = told
        self._about = about

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for told in self._told:
            told(*self._about, exc_value)


def _overrides(instrument: Instrument, hook: str) -> bool:
    method = getattr(instrument, hook)
    return getattr(method, "__func__", None) is not getattr(Instrument, hook)
