"""Instruments, which watch a bus as trio's watch a run: the hooks, and the calls to them."""

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

    Pass it to `open_event_bus(instruments=...)` or `EventBus.add_instrument`. Methods that you
    don't override cost nothing. An instrument never changes the order of events, or which tasks
    wait for which.

    The methods are called in trio's thread, and must not block. They must not use the bus either:
    operations on it raise `RuntimeError`. If a method raises, the exception is logged with its
    traceback, and the bus goes on without that instrument.
    """

    def subscription_opened(self, subscription: Subscription) -> None:
        """A subscription has been opened, including those of `expect` and `wait_for`.

        Every call gets the same object for it, so it can be the key of a dictionary.
        """

    def subscription_closed(self, subscription: Subscription) -> None:
        """A subscription has stopped matching events. Its unread events may still be read."""

    def before_send(self, event: Event) -> None:
        """A task is about to send an event. Its names and permissions have been checked.

        Called in that task, with its context variables.
        """

    def after_send(self, event: Event, error: BaseException | None) -> None:
        """The send is over. Called once after `before_send`, in the same task.

        Args:
          event: The event.
          error: The exception that the sender gets, such as `Cancelled` or `WouldBlock`; None if
            the event was accepted.
        """

    def events_routed(
        self, events: Sequence[Event], subscriptions: tuple[Subscription, ...]
    ) -> None:
        """Events have reached their subscriptions. Called in the total order of events.

        Args:
          events: Consecutive events of one system and kind.
          subscriptions: The subscriptions that get each of them; none if no subscription matches.
        """

    def events_unmatched(self, events: Sequence[Event]) -> None:
        """No subscription and no history matches these events, and none of them answers a request.

        Called after `events_routed`, with events of one system and kind.
        """

    def event_received(self, event: Event, subscription: Subscription) -> None:
        """A task has taken an event. Called in that task, before it goes on."""

    def before_handler(self, event: Event, subscription: Subscription) -> None:
        """A handler is about to be called. Called in the handler's task.

        The handler, and the tasks that it starts, see the context variables that this sets.
        """

    def after_handler(
        self, event: Event, subscription: Subscription, error: BaseException | None
    ) -> None:
        """The call is over. Called once after `before_handler`, in the same task.

        Args:
          event: The event.
          subscription: The subscription of the handler.
          error: The exception of the handler, including `Cancelled`; None if it returned.
        """

    def event_failed(self, letter: DeadLetter) -> None:
        """The handling of an event has failed for good: it is a dead letter."""

    def loss_began(self, subscription: Subscription) -> None:
        """A subscription has dropped the first event of an episode of loss."""

    def loss_ended(self, subscription: Subscription, lost: int) -> None:
        """The episode is over; `lost` is the number of events that were dropped in it."""

    def senders_stalled(self, subscription: Subscription, seconds: float) -> None:
        """Senders are waiting for room in a subscription, the first one for `seconds`."""

    def access_denied(self, actor: str, action: Action, system: str) -> None:
        """The policy has refused an action on a system, or on a pattern of systems."""

    def draining_began(self) -> None:
        """The bus is closing, and its handlers and consumers are finishing their work."""

    def bus_closed(self) -> None:
        """The bus is closed. Accepted events may still be read."""


def check_instrument(instrument: object) -> None:
    """Require an instrument."""
    if not isinstance(instrument, Instrument):
        hint = ", with parentheses" if isinstance(instrument, type) else ""
        raise TypeError(f"an instrument must be an Instrument, not {instrument!r}{hint}")


NOWHERE: Final = 0
"""No thread at all."""

HOOKS: Final = tuple(name for name in vars(Instrument) if not name.startswith("_"))

Told: TypeAlias = Callable[..., None]
"""Calls a method of an instrument, and catches what it raises. Not within a step."""


class Door(Protocol):
    """The attributes of a door by which a method is kept from using the bus."""

    home: int
    thread: int


@final
@attrs.define(eq=False)
class Instruments:
    """The instruments of a bus, and the methods to call for each hook."""

    _notices: Notices
    _door: Door
    in_step: Any = attrs.field(default=None, init=False)
    """Called within the step in which something happens: the maker of the bus's own events, while
    something subscribes to them. It also has methods for facts that have no hook."""

    active: bool = attrs.field(default=False, init=False)
    """Whether there is anything to notify."""

    watched_sends: bool = attrs.field(default=False, init=False)
    watched_calls: bool = attrs.field(default=False, init=False)
    watched_routes: bool = attrs.field(default=False, init=False)
    watched_reads: bool = attrs.field(default=False, init=False)
    on_change: Callable[[], None] = attrs.field(default=lambda: None, init=False)
    """Called when the four above may have changed."""

    on_interests: Callable[[Any], None] = attrs.field(default=lambda actor: None, init=False)
    """Called within a step with the actor of a subscription or a history whose patterns have
    changed."""

    told: dict[str, tuple[Told, ...]] = attrs.field(init=False)
    """The functions to call for each hook."""

    is_of_list: bool = attrs.field(default=False, init=False)
    """Whether the event passed to `event_received` was read together with others."""

    numbers: Iterator[int] = attrs.field(factory=lambda: itertools.count(1), init=False)
    """For subscriptions that are reported."""

    # By the identity of the instrument: itself, and the functions for the hooks that it overrides.
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
        """Find out again which instruments override which hooks."""
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
        """Report something that has happened, within a step or outside of any."""
        if self.in_step is not None:
            with self._notices:
                getattr(self.in_step, fact)(*about)
        if self.told.get(fact):
            self._notices.after_step(partial(self._call, fact, *about))

    def tell_one(self, instrument: Instrument, hook: str, *about: object) -> None:
        """Call a method of one instrument, if it overrides that method."""
        _, wired = self._instruments.get(id(instrument), (None, {}))  # or it has raised
        if hook in wired:
            wired[hook](*about)

    def _call(self, hook: str, *about: object) -> None:
        for told in self.told[hook]:
            told(*about)

    def around(self, before: str, after: str, *about: object) -> Around:
        """Call a hook before something happens, and another one at the end of the returned block.

        The second hook is called for the instruments that were there before, and still are.
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
            if key not in present:  # it raised just now, and was removed
                return
            # The collector may run destructors, which may close subscriptions. Not now.
            collects = gc.isenabled()
            gc.disable()
            door.thread = NOWHERE
            failure: BaseException | None = None
            try:
                method(*about)
            except BaseException as error:  # noqa: ASYNC103, BLE001  # it must not break the bus
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
    """A block that calls a hook at its end. In plain slots, because each send makes one."""

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
