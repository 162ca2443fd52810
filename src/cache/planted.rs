//! Owns the bugs that tests plant in the coordinator, to show that the simulation finds each of them.
//! Must not know: what any of them does. Without the feature `planted-bugs` every question here is a constant `false`.

/// One known way to get the coordinator wrong. Named by what goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bug {
    ClaimGrantedDuringEviction,
    ClaimForgottenWhenEvictionFails,
    UnclaimDropsEveryClaim,
    StaleReportAccepted,
    LastLeaveCancelsFlight,
    LeaderLeaveRefusesOthers,
    LeftWaiterAnswered,
    LateEndsFlight,
    PinIgnored,
    PinnedLostEvicted,
    LaneSlotLeaked,
    IdleSlotUnused,
    BlockedUpstreamBlocksAll,
    FailureRefusesOtherSources,
    NextSourceForgotten,
    DeathRetriedForever,
    MemoryNeverExpires,
    FailureNotRemembered,
    AddedForgottenWhenFillFails,
    AddedCountedTwice,
    ReservationLeaked,
    EvictingCountedTwice,
    EvictFailedDropsEntry,
    EvictBeforeLoaded,
    ReadyDuringEviction,
    AdmitBeforeEvicted,
    HitNotTouched,
    ShareIgnored,
    NobodyJoins,
    RefusedEvictionRepeated,
    RefusalPinsAgain,
    ScanPinsAgain,
    ScanBringsBackRemoved,
    ScanBelievedOverFlight,
}

#[cfg(feature = "planted-bugs")]
impl Bug {
    pub const ALL: [Self; 34] = [
        Self::ClaimGrantedDuringEviction,
        Self::ClaimForgottenWhenEvictionFails,
        Self::UnclaimDropsEveryClaim,
        Self::StaleReportAccepted,
        Self::LastLeaveCancelsFlight,
        Self::LeaderLeaveRefusesOthers,
        Self::LeftWaiterAnswered,
        Self::LateEndsFlight,
        Self::PinIgnored,
        Self::PinnedLostEvicted,
        Self::LaneSlotLeaked,
        Self::IdleSlotUnused,
        Self::BlockedUpstreamBlocksAll,
        Self::FailureRefusesOtherSources,
        Self::NextSourceForgotten,
        Self::DeathRetriedForever,
        Self::MemoryNeverExpires,
        Self::FailureNotRemembered,
        Self::AddedForgottenWhenFillFails,
        Self::AddedCountedTwice,
        Self::ReservationLeaked,
        Self::EvictingCountedTwice,
        Self::EvictFailedDropsEntry,
        Self::EvictBeforeLoaded,
        Self::ReadyDuringEviction,
        Self::AdmitBeforeEvicted,
        Self::HitNotTouched,
        Self::ShareIgnored,
        Self::NobodyJoins,
        Self::RefusedEvictionRepeated,
        Self::RefusalPinsAgain,
        Self::ScanPinsAgain,
        Self::ScanBringsBackRemoved,
        Self::ScanBelievedOverFlight,
    ];
}

/// Which bug is planted, if any. Takes no room without the feature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Planted {
    #[cfg(feature = "planted-bugs")]
    bug: Option<Bug>,
}

impl Planted {
    #[cfg(feature = "planted-bugs")]
    pub(super) fn bug(bug: Bug) -> Self {
        Self { bug: Some(bug) }
    }

    #[cfg(feature = "planted-bugs")]
    pub(super) fn is(self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    #[cfg(not(feature = "planted-bugs"))]
    pub(super) const fn is(self, _: Bug) -> bool {
        false
    }
}
