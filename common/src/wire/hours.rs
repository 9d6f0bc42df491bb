//! When a site takes plans on, where it says so to the coordinator.

use serde::{Deserialize, Serialize};

/// A site's hours, told after Welcome and whenever they change; without this message nothing is published. They
/// are a courtesy to whoever plans rounds: what counts is the site's answer to each plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedHours {
    /// What is published.
    pub hours: Published,
}

/// What a site publishes of its hours.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Published {
    /// Nothing any more.
    #[default]
    Nothing,
    /// It has no hours: plans are taken on at any time.
    AnyTime,
    /// As `crate::hours::Hours` are written.
    Daily(String),
}
