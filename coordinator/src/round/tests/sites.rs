//! Sites as the engine sees them: scripted by hand, or working by themselves.

use std::collections::VecDeque;

use consilium_common::audit::RollCall;
use consilium_common::ids::{Digest, Round, SiteId};
use consilium_common::signed::Signed;
use consilium_common::time::Millis;
use consilium_common::update::grid::{COUNT_STEP_EXPONENT, step_exponent};
use consilium_common::update::sections::{ControlSection, Header, encode_update};
use consilium_common::update::words::{Metrics, Schema, Words};
use consilium_common::wire::messages::{
    Answer, Message, Plan, PlanAnswer, Progress, SitePhase, TaskFailed, TaskKind, UpdateOffer,
};
use consilium_common::wire::reject::Code;

use super::super::*;
use super::world::{Event, World, site};

/// What a site does with a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Habit {
    Works,
    Declines,
    Fails,
    /// Accepts and is never heard of again.
    Sleeps,
    /// Delivers an update with a coordinate off the grid.
    Corrupts,
}

/// A site that works by itself. What it retains survives its disconnects.
#[derive(Debug)]
pub(super) struct FakeSite {
    pub(super) connected: bool,
    pub(super) habit: Habit,
    pub(super) inbox: VecDeque<Message>,
    pub(super) retained: Option<(Round, Digest)>,
    pub(super) receipts: Vec<(Round, Digest)>,
    pub(super) roll_calls: Vec<RollCall>,
}

impl World {
    /// An update as this site makes it for a plan: decided by name and base alone.
    pub(super) fn make_update(&mut self, name: &str, plan: &Plan) -> Digest {
        self.make_with(name, plan, |_, _, _| {})
    }

    /// The same, changed before it becomes bytes.
    pub(super) fn make_with(
        &mut self,
        name: &str,
        plan: &Plan,
        change: impl Fn(&mut Header, &mut Vec<i32>, &mut Words),
    ) -> Digest {
        let mut seed = blake3::Hasher::new();
        seed.update(name.as_bytes()).update(&plan.base.0);
        let seed = *seed.finalize().as_bytes();
        let len = match plan.task {
            TaskKind::Train => self.layout.weights_len(),
            TaskKind::Evaluate => 0,
            TaskKind::Prepare => self.study.preparation_len().unwrap(),
        };
        let counts = plan.task == TaskKind::Prepare;
        let grid = self.study.aggregation.control_grid();
        let grid = grid.filter(|_| plan.task == TaskKind::Train);
        let control = grid.map(|grid| ControlSection { step_exponent: grid.step_exponent, len });
        let all = len + control.map_or(0, |control| control.len);
        let mut units: Vec<i32> =
            seed.iter().cycle().take(all).map(|b| (i32::from(*b) - 128) << 18).collect();
        let mut words = Words {
            weight: 10 + u64::from(seed[30]),
            clipped: u64::from(seed[31] & 1),
            metrics: Metrics(vec![100, 65_536]),
        };
        if counts {
            words = Words { weight: 1, clipped: 0, metrics: Metrics(vec![0, 0]) };
        }
        let mut header = Header {
            round: plan.round,
            step_exponent: if counts { COUNT_STEP_EXPONENT } else { step_exponent(10.0) },
            study: plan.study_digest,
            base: plan.base,
            layout: self.layout.digest(),
            shared_len: len,
            control,
            words_len: 10,
        };
        change(&mut header, &mut units, &mut words);
        let encoded = schema_of_two().encode(&words);
        let bytes = encode_update(&header, &units, &encoded);
        let digest = Digest::of(&bytes);
        self.made.insert(digest, bytes);
        digest
    }

    // By hand.

    pub(super) fn ready(&mut self, names: &[&str]) {
        for name in names {
            self.engine.handle_site_ready(&site(name), self.now);
            self.settle();
        }
    }

    pub(super) fn accepts_study_again(&mut self, name: &str) {
        self.engine.handle_accepted_again(&site(name), self.now);
        self.settle();
    }

    pub(super) fn gone(&mut self, name: &str) {
        self.engine.handle_site_gone(&site(name), self.now);
        self.settle();
    }

    pub(super) fn says(&mut self, name: &str, message: SiteMessage) {
        self.engine.handle_message(&site(name), message, self.now);
        self.settle();
    }

    /// The plan that was sent last.
    pub(super) fn plan(&self) -> Plan {
        let plans = self.sent.iter().rev().find_map(|(_, message)| match message {
            Message::Plan(plan) => Some(plan.clone()),
            _ => None,
        });
        plans.unwrap()
    }

    pub(super) fn answers(&mut self, name: &str, answer: Answer) {
        let plan = self.plan();
        let (study, round) = (plan.study, plan.round);
        let answer = PlanAnswer { study, round, answer };
        self.says(name, SiteMessage::PlanAnswer(answer));
    }

    pub(super) fn accepts(&mut self, names: &[&str]) {
        for name in names {
            self.answers(name, Answer::Accepted);
        }
    }

    pub(super) fn declines(&mut self, name: &str, code: Code, retry_after: Option<Millis>) {
        self.answers(name, Answer::Declined { code, retry_after });
    }

    pub(super) fn progresses(&mut self, name: &str) {
        let plan = self.plan();
        let progress = Progress {
            study: plan.study,
            round: plan.round,
            phase: SitePhase::Training,
            done: 3,
            total: 10,
        };
        self.says(name, SiteMessage::Progress(progress));
    }

    pub(super) fn fails(&mut self, name: &str, code: Code) {
        let plan = self.plan();
        let (study, round) = (plan.study, plan.round);
        self.says(name, SiteMessage::TaskFailed(TaskFailed { study, round, code }));
    }

    pub(super) fn offers(&mut self, name: &str, round: Round, digest: Digest) {
        let bytes = self.made.get(&digest).map_or(0, |bytes| bytes.len() as u64);
        self.offers_sized(name, round, digest, bytes);
    }

    /// Offers an update that nobody made.
    pub(super) fn offers_sized(&mut self, name: &str, round: Round, digest: Digest, bytes: u64) {
        let study = self.plan().study;
        let offer = UpdateOffer { study, round, digest, bytes };
        self.says(name, SiteMessage::UpdateOffer(offer));
    }

    /// Pushes, if the engine admits it.
    pub(super) fn pushes(&mut self, name: &str, round: Round, digest: Digest) -> Result<(), Code> {
        let bytes = self.made[&digest].clone();
        let (site, len) = (site(name), bytes.len() as u64);
        self.engine.wants_push(&site, round, digest, len)?;
        self.engine.handle_transfer(&site, round, len, 0, self.now);
        self.staged.insert(digest, bytes);
        self.engine.handle_staged(&site, round, digest, self.now);
        self.settle();
        Ok(())
    }

    /// Makes, offers and pushes.
    pub(super) fn delivers(&mut self, names: &[&str]) {
        for name in names {
            let plan = self.plan();
            let update = self.make_update(name, &plan);
            self.offers(name, plan.round, update);
            self.pushes(name, plan.round, update).unwrap();
        }
    }

    /// Whether a site was sent a message of this name since `from`.
    pub(super) fn was_sent(&self, name: &str, kind: &str) -> usize {
        let to = site(name);
        let sent = self.sent.iter();
        sent.filter(|(site, message)| *site == to && message.name() == kind).count()
    }

    /// The codes that a site's updates were refused with.
    pub(super) fn refusals(&self, name: &str) -> Vec<Code> {
        let to = site(name);
        let sent = self.sent.iter().filter(|(site, _)| *site == to);
        sent.filter_map(|(_, message)| match message {
            Message::UpdateRefused(refused) => Some(refused.code),
            _ => None,
        })
        .collect()
    }

    // By themselves.

    pub(super) fn populate(&mut self) {
        for id in self.roster.clone() {
            let fake = FakeSite {
                connected: false,
                habit: Habit::Works,
                inbox: VecDeque::new(),
                retained: None,
                receipts: Vec::new(),
                roll_calls: Vec::new(),
            };
            self.sites.insert(id, fake);
        }
    }

    pub(super) fn connect(&mut self, id: &SiteId) {
        let Some(fake) = self.sites.get_mut(id) else {
            return;
        };
        fake.connected = true;
        fake.inbox.clear();
        let retained = fake.retained;
        self.engine.handle_site_ready(id, self.now);
        if let Some((round, digest)) = retained {
            self.offer_later(id, round, digest);
        }
    }

    pub(super) fn disconnect(&mut self, id: &SiteId) {
        if let Some(fake) = self.sites.get_mut(id) {
            fake.connected = false;
            fake.inbox.clear();
        }
        self.queue.retain(|event| match event {
            Event::Done(..) => true,
            Event::Says(site, _) | Event::Staged(site, ..) => site != id,
        });
        self.engine.handle_site_gone(id, self.now);
    }

    fn offer_later(&mut self, id: &SiteId, round: Round, digest: Digest) {
        let offer = UpdateOffer {
            study: "demo".parse().unwrap(),
            round,
            digest,
            bytes: self.made[&digest].len() as u64,
        };
        let event = Event::Says(id.clone(), SiteMessage::UpdateOffer(offer));
        self.queue.push_back(event);
    }

    /// The site reads one message.
    pub(super) fn react(&mut self, id: &SiteId) -> bool {
        let Some(fake) = self.sites.get_mut(id) else {
            return false;
        };
        let (habit, retained) = (fake.habit, fake.retained);
        let Some(message) = fake.inbox.pop_front() else {
            return false;
        };
        match message {
            Message::Plan(plan) => self.react_to_plan(id, &plan, habit, retained),
            Message::UpdateWanted(wanted) if retained == Some((wanted.round, wanted.digest)) => {
                let bytes = self.made[&wanted.digest].clone();
                let len = bytes.len() as u64;
                if self.engine.wants_push(id, wanted.round, wanted.digest, len).is_ok() {
                    self.staged.insert(wanted.digest, bytes);
                    let event = Event::Staged(id.clone(), wanted.round, wanted.digest);
                    self.queue.push_back(event);
                }
            }
            Message::UpdateRefused(_) => fake.retained = None,
            Message::Receipt(receipt) => {
                let receipt = receipt.signed.parse_unverified().unwrap();
                fake.receipts.push((receipt.round, receipt.update));
            }
            Message::RollCall(message) => {
                let roll_call = Signed::parse_unverified(&message.signed).unwrap();
                if retained.is_some_and(|(round, _)| round <= roll_call.round) {
                    fake.retained = None;
                }
                fake.roll_calls.push(roll_call);
            }
            _ => {}
        }
        true
    }

    fn react_to_plan(
        &mut self,
        id: &SiteId,
        plan: &Plan,
        habit: Habit,
        retained: Option<(Round, Digest)>,
    ) {
        let (study, round) = (plan.study.clone(), plan.round);
        let answer = match habit {
            Habit::Declines => {
                Answer::Declined { code: Code::OutsideHours, retry_after: Some(Millis(2_000)) }
            }
            Habit::Works | Habit::Fails | Habit::Sleeps | Habit::Corrupts => Answer::Accepted,
        };
        let answer = PlanAnswer { study: study.clone(), round, answer };
        self.queue.push_back(Event::Says(id.clone(), SiteMessage::PlanAnswer(answer)));
        let kept = retained.filter(|(of, _)| *of == round);
        let digest = match (kept, habit) {
            (Some((_, digest)), _) => digest,
            (None, Habit::Works) => self.make_update(id.as_str(), plan),
            (None, Habit::Corrupts) => {
                self.make_with(id.as_str(), plan, |_, units, words| match units.first_mut() {
                    Some(unit) => *unit = i32::MIN,
                    None => words.weight = 0,
                })
            }
            (None, Habit::Fails) => {
                let failed = TaskFailed { study, round, code: Code::WorkerFailed };
                let failed = SiteMessage::TaskFailed(failed);
                return self.queue.push_back(Event::Says(id.clone(), failed));
            }
            (None, Habit::Declines | Habit::Sleeps) => return,
        };
        if let Some(fake) = self.sites.get_mut(id) {
            fake.retained = Some((round, digest));
        }
        self.offer_later(id, round, digest);
    }
}

fn schema_of_two() -> Schema {
    let study = consilium_common::study::Study::read(super::world::TOML, "demo.toml");
    Schema::of(&study.unwrap())
}
