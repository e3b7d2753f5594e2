//! The order of the gates, held by the compiler: this file compiles only while no permit has a way past the next gate,
//! and none can be copied and so used twice. There is nothing to run.

use super::{Permitted, Rated, Registered, Routed, Unrevoked};

/// What a method gives that a permit does not have itself: its own one would be found first, and not fit.
struct Absent;

trait NoWay: Sized {
    fn route(self) -> Absent {
        Absent
    }
    fn rate(self) -> Absent {
        Absent
    }
    fn unrevoked(self) -> Absent {
        Absent
    }
    fn permit_or_ask(self) -> Absent {
        Absent
    }
    fn record(self) -> Absent {
        Absent
    }
}

/// Which of its two implementations is meant is clear only for what cannot be cloned.
trait UsedOnce<Whether> {
    const YES: () = ();
}
impl<T> UsedOnce<()> for T {}
impl<T: Clone> UsedOnce<Absent> for T {}

macro_rules! no_way {
    ($($permit:ident: $($gate:ident)*;)*) => {$(
        impl NoWay for $permit<'_> {}
        $(const _: fn($permit<'static>) -> Absent = |permit| permit.$gate();)*
        const _: () = <$permit<'static> as UsedOnce<_>>::YES;
    )*};
}

no_way! {
    Registered: rate unrevoked permit_or_ask record;
    Routed: route unrevoked permit_or_ask record;
    Rated: route rate permit_or_ask record;
    Unrevoked: route rate unrevoked record;
    Permitted: route rate unrevoked permit_or_ask;
}
