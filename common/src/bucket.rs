//! A token bucket in whole numbers: so many at once, and so many in a time after that.

use crate::time::Millis;

/// How much is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    burst: u64,
    tokens: u64,
    each: Millis,
}

impl Rate {
    /// `burst` at once, and `tokens` more in `each`, which is not zero.
    #[must_use]
    pub const fn new(burst: u64, tokens: u64, each: Millis) -> Self {
        Self { burst, tokens, each }
    }

    /// `burst` at once, and `tokens` more a second.
    #[must_use]
    pub const fn a_second(burst: u64, tokens: u64) -> Self {
        Self::new(burst, tokens, Millis::from_secs(1))
    }

    /// Tokens in units that make the arithmetic exact.
    fn scaled(self, tokens: u64) -> i128 {
        i128::from(tokens) * i128::from(self.each.0)
    }
}

/// What is left of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    rate: Rate,
    /// Scaled by the rate; below zero while there is a debt.
    level: i128,
    at: Millis,
}

impl Bucket {
    /// Full.
    #[must_use]
    pub fn new(rate: Rate, now: Millis) -> Self {
        Self { rate, level: rate.scaled(rate.burst), at: now }
    }

    fn fill(&mut self, now: Millis) {
        let gained = i128::from(now.since(self.at).0) * i128::from(self.rate.tokens);
        self.level = (self.level + gained).min(self.rate.scaled(self.rate.burst));
        self.at = self.at.max(now);
    }

    /// Takes a token if there is one.
    pub fn take(&mut self, now: Millis) -> bool {
        self.fill(now);
        let there = self.level >= self.rate.scaled(1);
        if there {
            self.level -= self.rate.scaled(1);
        }
        there
    }

    /// Takes `tokens`, on debt if need be, unless there is a debt already.
    pub fn draw(&mut self, tokens: u64, now: Millis) -> bool {
        self.fill(now);
        let free = self.level > 0;
        if free {
            self.level -= self.rate.scaled(tokens);
        }
        free
    }

    /// Takes `tokens`, on debt if need be; how long to wait until the debt is paid.
    pub fn delay(&mut self, tokens: u64, now: Millis) -> Millis {
        self.fill(now);
        self.level -= self.rate.scaled(tokens);
        let debt = u128::try_from(-self.level).unwrap_or(0);
        let wait = debt.div_ceil(u128::from(self.rate.tokens.max(1)));
        Millis(u64::try_from(wait).unwrap_or(u64::MAX))
    }

    /// Puts back what was taken and not used.
    pub fn give_back(&mut self, tokens: u64) {
        self.level = (self.level + self.rate.scaled(tokens)).min(self.rate.scaled(self.rate.burst));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let mut bucket = Bucket::new(Rate::a_second(3, 2), Millis(5));
        assert!((0..3).all(|_| bucket.take(Millis(5))));
        assert!(!bucket.take(Millis(504)), "half a second for one more");
        assert!(bucket.take(Millis(505)) && !bucket.take(Millis(505)));
        assert!((0..3).all(|_| bucket.take(Millis(60_000))), "no more than the burst is saved up");
        assert!(!bucket.take(Millis(60_000)));
        assert!(!bucket.take(Millis(0)), "a clock that runs back gives nothing");
    }

    #[test]
    fn a_debt_is_waited_for_or_refused() {
        let mut bucket = Bucket::new(Rate::a_second(1, 10), Millis::ZERO);
        let waits: Vec<u64> = (0..3).map(|_| bucket.delay(1, Millis::ZERO).0).collect();
        assert_eq!(waits, [0, 100, 200]);
        assert_eq!(bucket.delay(1, Millis(1_000)), Millis::ZERO);
        assert_eq!(
            bucket.delay(6, Millis(1_000)),
            Millis(600),
            "many at once wait for all of them"
        );

        let mut bucket = Bucket::new(Rate::a_second(100, 10), Millis::ZERO);
        assert!(bucket.draw(1_000, Millis::ZERO));
        assert!(!bucket.draw(1, Millis(90_000)), "900 are owed");
        bucket.give_back(900);
        assert!(bucket.draw(1, Millis(90_001)));
    }

    #[test]
    fn rates_below_one_a_second_are_exact() {
        let mut bucket = Bucket::new(Rate::new(1, 1, Millis::from_secs(300)), Millis::ZERO);
        assert!(bucket.take(Millis::ZERO) && !bucket.take(Millis(299_999)));
        assert!(bucket.take(Millis(300_000)));
    }
}
