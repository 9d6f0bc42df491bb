//! Why a session ended from this side, and who is to blame.

use consilium_common::wire::reject::Code;

use crate::conduct::Deed;

/// Whose doing it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blame {
    /// It happens.
    Nobody,
    /// It happens to honest sites too: held against the site when it repeats.
    Fault,
    /// No agent does this.
    Strike,
}

/// Why a session cannot go on.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) code: Code,
    pub(super) detail: String,
    pub(super) blame: Blame,
}

impl Broken {
    pub(super) fn new(code: Code, detail: impl ToString) -> Self {
        Self { code, detail: detail.to_string(), blame: Blame::Nobody }
    }

    pub(super) fn fault(code: Code, detail: impl ToString) -> Self {
        Self { blame: Blame::Fault, ..Self::new(code, detail) }
    }

    pub(super) fn strike(code: Code, detail: impl ToString) -> Self {
        Self { blame: Blame::Strike, ..Self::new(code, detail) }
    }

    pub(super) fn flood(deed: Deed) -> Self {
        Self::strike(Code::Flood, deed.flood())
    }
}
