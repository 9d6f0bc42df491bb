//! Addresses whose handshakes are rationed. A handshake is the most expensive thing that a stranger
//! can ask for, and who asks is known only at its end: so addresses from which quarantined sites
//! came, or whose handshakes keep failing, get so many a second and no more. Whoever else lives
//! behind such an address (one hospital's gateway) shares the ration while it lasts.

use core::net::{IpAddr, Ipv6Addr};
use std::collections::BTreeMap;

use consilium_common::bucket::Bucket;
use consilium_common::time::Millis;

use crate::limits::{ADDRESSES_MAX, FAILED_HANDSHAKES, RATIONED_FOR, RATIONED_HANDSHAKES};

#[derive(Debug, Clone)]
struct Known {
    /// Rationed before this.
    until: Millis,
    handshakes: Bucket,
    failures: Bucket,
}

/// The addresses that something is known of.
#[derive(Debug, Default)]
pub struct Addresses {
    known: BTreeMap<IpAddr, Known>,
}

impl Addresses {
    /// Rations the handshakes of an address until `until`.
    pub fn ration(&mut self, address: IpAddr, until: Millis, now: Millis) {
        let known = self.entry(address, now);
        known.until = known.until.max(until);
    }

    /// A handshake from there came to nothing, or led to nobody who belongs here.
    pub fn failed(&mut self, address: IpAddr, now: Millis) {
        let known = self.entry(address, now);
        if !known.failures.take(now) {
            known.until = known.until.max(now + RATIONED_FOR);
        }
    }

    /// Whether handshakes from there are rationed.
    #[must_use]
    pub fn is_rationed(&self, address: IpAddr, now: Millis) -> bool {
        self.known.get(&network(address)).is_some_and(|known| now < known.until)
    }

    /// Whether a handshake from there may begin now.
    pub fn admit(&mut self, address: IpAddr, now: Millis) -> bool {
        match self.known.get_mut(&network(address)) {
            Some(known) if now < known.until => known.handshakes.take(now),
            _ => true,
        }
    }

    /// At most [`ADDRESSES_MAX`] are known: the one that is free soonest makes room.
    fn entry(&mut self, address: IpAddr, now: Millis) -> &mut Known {
        let network = network(address);
        if self.known.len() >= ADDRESSES_MAX && !self.known.contains_key(&network) {
            let soonest = self.known.iter().min_by_key(|(_, known)| known.until);
            if let Some(soonest) = soonest.map(|(address, _)| *address) {
                self.known.remove(&soonest);
            }
        }
        self.known.entry(network).or_insert_with(|| Known {
            until: Millis::ZERO,
            handshakes: Bucket::new(RATIONED_HANDSHAKES, now),
            failures: Bucket::new(FAILED_HANDSHAKES, now),
        })
    }
}

/// One customer's network: an IPv6 address is one of the 2^64 that each of them has.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u32) -> IpAddr {
        core::net::Ipv4Addr::from_bits(n).into()
    }

    fn admitted(addresses: &mut Addresses, from: IpAddr, times: u32, now: Millis) -> usize {
        (0..times).filter(|_| addresses.admit(from, now)).count()
    }

    #[test]
    fn a_thousand_agents_behind_one_address_come_in_at_once() {
        let mut addresses = Addresses::default();
        addresses.ration(address(2), Millis(60_000), Millis(0));
        assert_eq!(admitted(&mut addresses, address(1), 1_000, Millis(0)), 1_000);
        assert!(!addresses.is_rationed(address(1), Millis(0)));
    }

    #[test]
    fn an_address_with_a_quarantined_site_gets_its_ration_until_the_term_is_over() {
        let mut addresses = Addresses::default();
        addresses.ration(address(1), Millis(10_000), Millis(0));
        assert_eq!(admitted(&mut addresses, address(1), 1_000, Millis(0)), 20);
        assert_eq!(admitted(&mut addresses, address(1), 1_000, Millis(500)), 10);
        assert!(addresses.is_rationed(address(1), Millis(9_999)));
        assert!(!addresses.is_rationed(address(1), Millis(10_000)));
        assert_eq!(admitted(&mut addresses, address(1), 1_000, Millis(10_000)), 1_000);
    }

    #[test]
    fn some_failures_are_nothing_and_many_are_rationed() {
        let mut addresses = Addresses::default();
        (0..64).for_each(|_| addresses.failed(address(1), Millis(0)));
        assert!(!addresses.is_rationed(address(1), Millis(0)));
        addresses.failed(address(1), Millis(0));
        assert!(addresses.is_rationed(address(1), Millis(0)));
        assert!(!addresses.is_rationed(address(1), RATIONED_FOR));
    }

    #[test]
    fn a_network_of_ipv6_is_one_address_and_ipv4_in_ipv6_is_ipv4() {
        let mut addresses = Addresses::default();
        addresses.ration("2001:db8::1".parse().unwrap(), Millis(10), Millis(0));
        assert!(addresses.is_rationed("2001:db8::ffff:1".parse().unwrap(), Millis(0)));
        assert!(!addresses.is_rationed("2001:db8:0:1::1".parse().unwrap(), Millis(0)));
        addresses.ration("::ffff:10.0.0.1".parse().unwrap(), Millis(10), Millis(0));
        assert!(addresses.is_rationed("10.0.0.1".parse().unwrap(), Millis(0)));
    }

    #[test]
    fn what_is_known_is_bounded_and_the_longest_terms_stay() {
        let mut addresses = Addresses::default();
        addresses.ration(address(1), Millis(99_000), Millis(0));
        for n in 0..3_000 {
            addresses.ration(address(1_000 + n), Millis(5_000), Millis(0));
        }
        assert_eq!(addresses.known.len(), ADDRESSES_MAX);
        assert!(addresses.is_rationed(address(1), Millis(0)));
    }
}
