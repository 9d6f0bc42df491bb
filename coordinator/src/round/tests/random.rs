//! Any order of answers, messages, disconnects, deaths and waits, from a printed seed.

use std::collections::BTreeMap;

use consilium_common::audit::{Outcome, Record};
use consilium_common::ids::{Digest, Round, SiteId, Version};
use consilium_common::random::Generator;
use consilium_common::time::Millis;
use consilium_common::wire::messages::{Message, RunState};

use super::super::Command;
use super::sites::Habit;
use super::world::{Event, World};
// The environment is the way to a seed; no core reads it.
#[cfg(test)]
use std::env;

const SITES: [&str; 4] = ["a", "b", "c", "d"];
const STEPS: u32 = 600;

/// A world, and what happens to it next.
struct Chaos {
    world: World,
    random: Generator,
}

impl Chaos {
    fn new(seed: &str) -> Self {
        let mut random = Generator::new("round-chaos", seed.as_bytes());
        let prepares = random.below(2) == 0;
        let mut world = World::submitted(&SITES, |toml| match prepares {
            true => toml.replace("parameters = 5", "parameters = 5\nprepare = 7"),
            false => toml.to_owned(),
        });
        world.populate();
        Self { world, random }
    }

    fn any_site(&mut self) -> SiteId {
        let name = SITES[self.random.below(4) as usize];
        name.parse().unwrap()
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..40 => drop(self.world.perform_one()),
            40..60 => self.any_event(),
            60..84 => {
                let id = self.any_site();
                self.world.react(&id);
            }
            84..90 => {
                let id = self.any_site();
                self.world.connect(&id);
            }
            90..93 => {
                let id = self.any_site();
                self.world.disconnect(&id);
            }
            93..95 => self.change_a_habit(),
            95..97 => self.wait(),
            97 => {
                let staged_survive = self.random.below(2) == 0;
                self.world.crash(staged_survive);
                for fake in self.world.sites.values_mut() {
                    fake.connected = false;
                }
            }
            _ => {
                let command =
                    if self.random.below(3) == 0 { Command::Pause } else { Command::Start };
                drop(self.world.command(command));
            }
        }
    }

    /// Answers come in any order; what one site says comes in its order.
    fn any_event(&mut self) {
        let len = u32::try_from(self.world.queue.len()).unwrap();
        if len == 0 {
            return;
        }
        let at = self.random.below(len) as usize;
        let said_by = |event: &Event| match event {
            Event::Says(site, _) | Event::Staged(site, ..) => Some(site.clone()),
            Event::Done(..) => None,
        };
        let by = said_by(&self.world.queue[at]);
        let first = self.world.queue.iter().position(|event| by.is_some() && said_by(event) == by);
        let event = self.world.queue.remove(first.unwrap_or(at)).unwrap();
        self.world.handle(event);
    }

    fn change_a_habit(&mut self) {
        let habits = [
            Habit::Works,
            Habit::Works,
            Habit::Declines,
            Habit::Fails,
            Habit::Sleeps,
            Habit::Corrupts,
        ];
        let habit = habits[self.random.below(6) as usize];
        let id = self.any_site();
        self.world.sites.get_mut(&id).unwrap().habit = habit;
    }

    fn wait(&mut self) {
        let millis = u64::from(self.random.below(12_000));
        self.world.now = self.world.now + Millis(millis);
        if self.world.engine.next_deadline().is_some_and(|at| at <= self.world.now) {
            self.world.engine.handle_timeout(self.world.now);
            let next = self.world.engine.next_deadline();
            assert!(next.is_none_or(|at| at > self.world.now), "woken for nothing");
        }
    }

    /// Everyone works and stays: the study must come to its end.
    fn finish(&mut self) {
        let sites: Vec<SiteId> = self.world.sites.keys().cloned().collect();
        for id in &sites {
            self.world.sites.get_mut(id).unwrap().habit = Habit::Works;
            self.world.connect(id);
        }
        drop(self.world.command(Command::Start));
        for _ in 0..20_000 {
            let acts = self.world.perform_one() || sites.iter().any(|id| self.world.react(id));
            if acts {
                continue;
            }
            if let Some(event) = self.world.queue.pop_front() {
                self.world.handle(event);
            } else if self.world.state_in_log() == RunState::Complete {
                return;
            } else if let Some(at) = self.world.engine.next_deadline() {
                self.world.now = self.world.now.max(at);
                self.world.engine.handle_timeout(self.world.now);
            } else {
                drop(self.world.command(Command::Start));
            }
        }
        panic!("the study does not end: {:#?}", self.world.status());
    }

    fn check(&self) {
        let commits = self.world.commits();
        assert_eq!(commits.len(), 2);
        let prepares = usize::from(self.world.study.preparation_len().is_some());
        assert_eq!(self.world.prepared().len(), prepares);
        let mut versions = Vec::new();
        for roll_call in self.world.roll_calls() {
            if let Outcome::Committed { version, .. } = roll_call.outcome {
                assert_eq!(roll_call.base_version.next(), version);
                versions.push(version);
            }
        }
        assert_eq!(versions, [Version(1), Version(2)]);
        self.check_receipts();
    }

    /// Whoever counted has a receipt in the log for what counted, and nobody was told otherwise.
    fn check_receipts(&self) {
        let mut receipts: BTreeMap<(Round, SiteId), Digest> = BTreeMap::new();
        for record in &self.world.log {
            if let Record::Receipt(given) = record {
                let receipt = given.signed.parse_unverified().unwrap();
                let key = (receipt.round, receipt.site);
                assert!(receipts.insert(key, receipt.update).is_none(), "two receipts");
            }
        }
        for (site, message) in &self.world.sent {
            if let Message::Receipt(sent) = message {
                let sent = sent.signed.parse_unverified().unwrap();
                assert_eq!(receipts.get(&(sent.round, site.clone())), Some(&sent.update));
            }
        }
        for roll_call in self.world.roll_calls() {
            for (site, entry) in &roll_call.sites {
                let receipt = receipts.get(&(roll_call.round, site.clone()));
                assert_eq!(entry.update.as_ref(), receipt, "{} {site}", roll_call.round);
            }
        }
    }
}

fn run(seed: &str) {
    let mut chaos = Chaos::new(seed);
    chaos.world.command(Command::Start).unwrap();
    for _ in 0..STEPS {
        chaos.step();
    }
    chaos.finish();
    chaos.check();
}

/// Replay one seed with `CONSILIUM_SEED`; without it a hundred fixed ones run.
#[test]
fn whatever_happens_in_whatever_order_every_model_is_the_exact_sum_of_its_roll_call() {
    if let Ok(seed) = env::var("CONSILIUM_SEED") {
        return run(&seed);
    }
    for n in 0..100 {
        let seed = format!("chaos-{n}");
        println!("CONSILIUM_SEED={seed}");
        run(&seed);
    }
}
