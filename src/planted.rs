//! Owns the bugs that tests plant in the rooms around the coordinator, to show that the fault matrix, or a killed
//! server, finds each of them. The coordinator has its own, in `cache/planted`.
//! Must not know: what any of them does. Without the feature `planted-bugs` every question here is a constant `false`.

/// One known way to get it wrong. Named by what goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// The last byte goes out before the digest is proven.
    LastByteNotHeld,
    DigestNotCompared,
    /// A source that begins anew is taken for one that goes on.
    ResumeNotSkipped,
    ContentRangeNotRead,
    ShortBodyTakenForWhole,
    BreakNotRetried,
    MirrorsForgotten,
    TokenNeverRenewed,
    NotFoundRetried,
    RateLimitHidden,
    RedirectsWithoutEnd,
    ExpiredAddressBelieved,
    EncodingAccepted,
    SizeNotAgreed,
    FullDiskRefuses,
    SalvageForgotten,
    UnkeptTailBroken,
    DraftLeftBehind,
    DamageStays,
    SuspectsTrusted,
    DraftNotKept,
    ProofNotAsked,
    PushNotPinned,
    FutureTagFresh,
    ResumeNotCounted,
    /// A push is answered before what it promises is on the disk.
    PromisedTooEarly,
    /// Rows say that a blob lies here before it does.
    RowBeforeFile,
    /// What an earlier run left is taken up as it is.
    LeftoverNotCompared,
}

impl Bug {
    #[cfg(feature = "planted-bugs")]
    pub const ALL: [Self; 28] = [
        Self::LastByteNotHeld,
        Self::DigestNotCompared,
        Self::ResumeNotSkipped,
        Self::ContentRangeNotRead,
        Self::ShortBodyTakenForWhole,
        Self::BreakNotRetried,
        Self::MirrorsForgotten,
        Self::TokenNeverRenewed,
        Self::NotFoundRetried,
        Self::RateLimitHidden,
        Self::RedirectsWithoutEnd,
        Self::ExpiredAddressBelieved,
        Self::EncodingAccepted,
        Self::SizeNotAgreed,
        Self::FullDiskRefuses,
        Self::SalvageForgotten,
        Self::UnkeptTailBroken,
        Self::DraftLeftBehind,
        Self::DamageStays,
        Self::SuspectsTrusted,
        Self::DraftNotKept,
        Self::ProofNotAsked,
        Self::PushNotPinned,
        Self::FutureTagFresh,
        Self::ResumeNotCounted,
        Self::PromisedTooEarly,
        Self::RowBeforeFile,
        Self::LeftoverNotCompared,
    ];

    /// Whether this is the one that the environment of the process names.
    #[cfg(feature = "planted-bugs")]
    pub fn is_planted(self) -> bool {
        static PLANTED: std::sync::OnceLock<Option<Bug>> = std::sync::OnceLock::new();
        let named = || {
            let name = std::env::var("BINARYREPO_PLANTED_BUG").ok()?;
            Self::ALL.into_iter().find(|bug| format!("{bug:?}") == name)
        };
        *PLANTED.get_or_init(named) == Some(self)
    }

    #[cfg(not(feature = "planted-bugs"))]
    pub const fn is_planted(self) -> bool {
        false
    }
}
