//! Connections to authenticated peers and what travels on them.
